"""Brokers: what carries events and control messages out of the process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from multiprocessing.util import Finalize
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from .. import threads
from ..conf import settings
from ..messages import Envelope, Message, Tally
from ..sequence import Sequencer, is_text_from
from ..storage import get_storage
from .base import BrokerBase, Listener

__all__ = ["BrokerBase", "Listener", "get_brokers", "is_text_of_own", "publish"]

logger = logging.getLogger("django_eventstream")

#: What ``EVENTSTREAM_BROKER`` may say in place of a dotted path.
SHORT_NAMES = {
    "memory": "django_eventstream.brokers.memory.MemoryBroker",
    "database": "django_eventstream.brokers.database.DatabaseBroker",
    "redis": "django_eventstream.brokers.redis.RedisBroker",
    "channels": "django_eventstream.brokers.channels.ChannelsBroker",
}
#: Brokers beside it, that a project asks for by other settings than the package's own.
IMPLIED = {
    "django_eventstream.brokers.grip.GripBroker": (
        *("GRIP_URL", "GRIP_PROXIES", "GRIP_PROXY_REQUIRED"),
    )
}


def get_names() -> list[str]:
    """Return the brokers that the settings name or, where they do not, that follow from others.

    Raises ImproperlyConfigured.
    """
    if (names := settings.broker) is not None:
        return names
    if settings.redis:
        return ["redis"]
    try:
        storage = get_storage()
    except ImproperlyConfigured:
        raise
    except Exception as error:  # of whatever type the project's storage has
        raise ImproperlyConfigured(f"EVENTSTREAM_STORAGE_CLASS: {error!r}") from error
    return ["memory" if storage is None else storage.broker]


@cache
def get_brokers() -> tuple[BrokerBase, ...]:
    """Return the project's brokers.

    Raises ImproperlyConfigured when their settings cannot be used.
    """
    brokers = [_make(name) for name in get_names()]
    for path, names in IMPLIED.items():
        if any(getattr(django_settings, name, None) for name in names):
            brokers.append(import_string(path)())
    return tuple(brokers)


def _make(name: str) -> BrokerBase:
    try:
        broker = import_string(SHORT_NAMES.get(name, name))()
    except ImproperlyConfigured:
        raise
    except Exception as error:  # of whatever type a broker of the project's own has
        raise ImproperlyConfigured(
            f"EVENTSTREAM_BROKER: {name!r} cannot be loaded ({error}); name one of "
            f"{', '.join(SHORT_NAMES)}, or give the dotted path of a broker."
        ) from error
    if not isinstance(broker, BrokerBase):
        raise ImproperlyConfigured(
            f"EVENTSTREAM_BROKER: {name!r} is no broker; "
            "let it inherit from django_eventstream.brokers.BrokerBase."
        )
    return broker


#: After how many seconds it is told how many messages there were.
TALLY_DELAY = 1.0


class _Sender:
    """This process, as other processes see it."""

    def __init__(self) -> None:
        self._sequencer = Sequencer(uuid.uuid4().hex)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        # The brokers that are to carry the counts; a dict for its order.
        self._due: dict[BrokerBase, None] = {}
        # On which channels something is being published. Counts must not overtake it, or it is
        # taken for lost, and dropped when it comes.
        self._busy: Counter[str] = Counter()
        self._finalizer: Finalize | None = None
        #: Brokers that failed, so that each outage is logged once.
        self.failing: set[BrokerBase] = set()

    @property
    def name(self) -> str:
        return self._sequencer.sender

    def enclose(self, message: Message | Tally) -> Envelope:
        with self._lock:
            return self._sequencer.enclose(message, time.monotonic())

    def begin(self, messages: Sequence[Message]) -> tuple[list[Envelope], list[str]]:
        """Enclose messages to be published; ``end`` takes the second part when they are.

        That are the channels of those that are counted.
        """
        with self._lock:
            now = time.monotonic()
            envelopes = [self._sequencer.enclose(message, now) for message in messages]
            busy = [
                message.channel
                for message, envelope in zip(messages, envelopes, strict=True)
                if envelope.sequence is not None and message.channel is not None
            ]
            self._busy.update(busy)
        return envelopes, busy

    def end(self, busy: Sequence[str]) -> None:
        """Note that messages have been published."""
        if busy:
            with self._lock:
                self._busy -= Counter(busy)  # which drops those that come to nothing

    def tally_later(self, brokers: Iterable[BrokerBase]) -> None:
        """Have the counts told in a while by these brokers."""
        with self._lock:
            self._due.update(dict.fromkeys(brokers))
            if self._due and self._timer is None:
                if self._finalizer is None:
                    # What is left at the end of the process goes before the outboxes are
                    # flushed, which have a lower priority. Not before there is something:
                    # multiprocessing's children forget what was there when they began.
                    self._finalizer = Finalize(None, self._tell_counts, exitpriority=10)
                timer = threading.Timer(TALLY_DELAY, self._tally)
                timer.daemon = True
                with contextlib.suppress(RuntimeError):  # there is no thread to be had
                    timer.start()
                    self._timer = timer

    def _tally(self) -> None:
        """Tell the counts, again where that fails; on the timer's thread."""
        try:
            failed = self._tell_counts()
        finally:
            threads.release_connections()
        self.tally_later(failed)

    def _tell_counts(self) -> list[BrokerBase]:
        """Tell the counts; return the brokers that could not, or not all of them."""
        with self._lock:
            self._timer = None
            brokers, self._due = self._due, {}
            envelope = self._sequencer.tally(time.monotonic(), self._busy)
            left = [*brokers] if self._sequencer.has_changed else []
        if envelope is None:
            return left
        failed = [broker for broker in brokers if not _publish(broker, [envelope])]
        if failed:
            with self._lock:
                self._sequencer.tally_again(envelope)
        return left or failed


_sender = _Sender()


def is_text_of_own(text: str | bytes) -> bool:
    """Return whether this process sent a message, so that its streams have it already.

    By the beginning of its text, which need not be decoded: what a process sends comes back to it.
    """
    return is_text_from(text, _sender.name)


def tally_later(brokers: Iterable[BrokerBase]) -> None:
    """Have it told how many messages there were, by brokers that may have lost one."""
    _sender.tally_later(brokers)


def enclose(message: Message | Tally) -> Envelope:
    """Return an envelope of this process for a message."""
    return _sender.enclose(message)


def publish(*messages: Message, wait: bool = False) -> bool:
    """Have every broker carry messages; nothing is raised, for brokers are hints.

    Return whether there is a broker that reaches other processes.
    """
    try:
        brokers = get_brokers()
    except ImproperlyConfigured:
        logger.exception("The brokers are not configured correctly, nothing leaves this process")
        return True
    reaches = False
    unsure = []
    envelopes, busy = _sender.begin(messages)
    try:
        for broker in brokers:
            reaches = reaches or broker.reaches_other_processes
            if not _publish(broker, envelopes, wait=wait) or broker.is_lossy:
                unsure.append(broker)
    finally:
        _sender.end(busy)
    if busy:
        _sender.tally_later(unsure)
    return reaches


def _publish(broker: BrokerBase, envelopes: Sequence[Envelope], *, wait: bool = False) -> bool:
    """Have a broker carry messages; return whether it could."""
    try:
        broker.publish_many(envelopes, wait=wait)
    except Exception:
        if broker not in _sender.failing:
            _sender.failing.add(broker)
            name = type(broker).__name__
            channel = envelopes[0].message.channel
            logger.exception("%s cannot carry what is sent, on channel %r first", name, channel)
        return False
    if broker in _sender.failing:
        _sender.failing.discard(broker)
        logger.warning("%s works again.", type(broker).__name__)
    return True


def flush(timeout: float) -> None:
    """Wait until the brokers have handed on what was published, ``timeout`` seconds at most."""
    if get_brokers.cache_info().currsize:
        deadline = time.monotonic() + timeout
        for broker in get_brokers():
            broker.flush(max(0.0, deadline - time.monotonic()))


#: The settings that say which brokers there are, and what they connect to.
_SETTINGS = {
    *("EVENTSTREAM_BROKER", "EVENTSTREAM_REDIS", "EVENTSTREAM_STORAGE_CLASS"),
    *("EVENTSTREAM_STORAGE_CONNECTION", "CHANNEL_LAYERS"),
    *(name for names in IMPLIED.values() for name in names),
}


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in _SETTINGS:
        if get_brokers.cache_info().currsize:
            for broker in get_brokers():
                broker.close()
        get_brokers.cache_clear()


setting_changed.connect(_forget)


def _renew() -> None:
    global _sender
    _sender = _Sender()
    get_brokers.cache_clear()


# A forked child is another sender, and has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
