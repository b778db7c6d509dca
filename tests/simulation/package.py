"""The package in the hands of the simulation: what it has of the real world is taken away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import threading
from types import SimpleNamespace

from django_eventstream import (
    brokers,
    channelmanager,
    conf,
    eventstream,
    hub,
    listening,
    protocol,
    shutdown,
    streaming,
    threads,
)
from django_eventstream.brokers import database

from .scheduler import Killed
from .world import World

#: The modules whose constants a plan may change.
MODULES = {
    "brokers": brokers,
    "database": database,
    "hub": hub,
    "listening": listening,
    "protocol": protocol,
    "streaming": streaming,
}

#: The world in which the package is now.
_world = None


class _Clock:
    @staticmethod
    def monotonic():
        return _world.scheduler.now

    time = monotonic


class _Names:
    @staticmethod
    def uuid4():
        return SimpleNamespace(hex=f"sender{next(_world.numbers)}")


class _Timer:
    def __init__(self, delay, function):
        self._delay = delay
        self._function = function

    def start(self):
        _world.later(self._delay, _world.scheduler.current, self._function)


class _Threading:
    Lock = staticmethod(threading.Lock)
    Timer = _Timer


class _Connections:
    def __getitem__(self, alias):
        return _world.scheduler.local


class _DjangoTransaction:
    @staticmethod
    def on_commit(function, using=None):
        _world.scheduler.local.on_commit(function)


class _ChannelManager(channelmanager.ChannelManagerBase):
    def can_read_channel(self, user, channel):
        return _world.can_read(user, channel)

    def is_channel_reliable(self, channel):
        return _world.is_reliable(channel)


class _Feed(hub.Feed):
    """A feed with a hash that is no address."""

    def __init__(self, channel, **kwargs):
        super().__init__(channel, **kwargs)
        self.number = next(_world.numbers)

    def __hash__(self):
        return self.number


class _LogHandler(logging.Handler):
    def emit(self, record):
        if _world is not None:
            _world.note(f"{_world.scheduler.current} logs {record.getMessage()}")
            _world.note_error(record)


async def _run_on_thread(function, *args, **kwargs):
    world = _world
    process = world.scheduler.current
    loop = asyncio.get_running_loop()
    answer = loop.create_future()

    def resolve(result, error):
        if not answer.done():
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def execute():
        result = error = None
        try:
            result = function(*args, **kwargs)
        except Exception as raised:
            error = raised
        world.later(world.latency(), process, loop.call_soon_threadsafe, resolve, result, error)

    world.later(world.latency(), process, execute)
    return await answer


def _run_in_background(function):
    _world.later(_world.latency(), _world.scheduler.current, function)


def _get_storage():
    return _world.scheduler.current.storage


def _get_brokers():
    return _world.scheduler.current.brokers


def _in_transaction(using):
    thread = _world.scheduler.local
    return thread is not None and thread.in_atomic_block


_manager = _ChannelManager()


@contextlib.contextmanager
def played():
    """Let the package work in simulated worlds."""
    publish, publish_by_brokers = hub.publish, brokers.publish
    revoke = hub.Hub._revoke

    def note_publish(*messages, wait=False):
        for message in messages:
            _world.note_published(message)
        publish(*messages, wait=wait)

    def note_brokers_publish(*messages, wait=False):
        world = _world
        world.scheduler.pause()
        thread = world.scheduler.local
        if thread is not None and thread.dies:
            world._kill(world.scheduler.current, 0.3)
            raise Killed
        for message in messages:
            world.note_carried(message)
        return publish_by_brokers(*messages, wait=wait)

    def note_revoke(self, revoked):
        revoke(self, revoked)
        _world.note_revoked(revoked)

    changes = [
        (
            conf.Settings,
            "_get",
            staticmethod(
                lambda name, default: _world.plan.settings.get(f"EVENTSTREAM_{name}", default)
            ),
        ),
        (threads, "run", _run_on_thread),
        (threads, "run_in_background", _run_in_background),
        (threads, "release_request_thread", lambda: None),
        (shutdown, "install", lambda: None),
        (shutdown, "is_stopping", lambda: _world.scheduler.current.is_stopping),
        (streaming, "disconnect", lambda task, scope, is_last: task.cancel()),
        (threads, "release_connections", lambda: None),
        (eventstream, "publish", note_publish),
        (eventstream, "in_transaction", _in_transaction),
        (database, "in_transaction", _in_transaction),
        (eventstream, "connections", _Connections()),
        (eventstream, "transaction", _DjangoTransaction),
        (brokers, "publish", note_brokers_publish),
        (brokers, "get_brokers", _get_brokers),
        (hub.Hub, "_revoke", note_revoke),
        (hub, "Feed", _Feed),
        (hub, "_hubs", {}),
        (hub, "_revocations", None),
        (hub, "_trimmed_at", 0.0),
        (hub, "_trimming", None),
        (hub, "_had_receivers", False),
        (hub, "_has_told", False),
        # Every loop is in this thread, and none goes on while a sender waits.
        (hub, "INBOX_PATIENCE", 0.0),
        (brokers, "_sender", None),
        (brokers, "uuid", _Names),
        (brokers, "Finalize", lambda *args, **kwargs: None),
        (brokers, "threading", _Threading),
    ]
    for name, module in sorted(sys.modules.items()):
        if name.startswith("django_eventstream."):
            for attribute, value in (
                ("get_storage", _get_storage),
                ("get_channelmanager", lambda: _manager),
                ("time", _Clock),
            ):
                if attribute in vars(module) and module not in (
                    sys.modules["django_eventstream.storage"],
                    channelmanager,
                ):
                    changes.append((module, attribute, value))
    logger = logging.getLogger("django_eventstream")
    handler = _LogHandler()
    before = [(place, name, vars(place)[name]) for place, name, _ in changes]
    propagate = logger.propagate
    for place, name, value in changes:
        setattr(place, name, value)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
        for place, name, value in reversed(before):
            setattr(place, name, value)


def simulate(plan, *, trace=False):
    """Run a plan, within ``played``; return the world as it is in the end."""
    global _world
    state = random.getstate()
    constants = {(MODULES[module], name): value for (module, name), value in plan.constants.items()}
    before = {(module, name): getattr(module, name) for module, name in constants}
    random.seed(f"package {plan.seed}")
    for (module, name), value in constants.items():
        setattr(module, name, value)
    world = _world = World(plan, trace=trace)
    try:
        world.run()
    finally:
        world.scheduler.enter(None)
        world.close()
        _world = None
        for (module, name), value in before.items():
            setattr(module, name, value)
        random.setstate(state)
    return world
