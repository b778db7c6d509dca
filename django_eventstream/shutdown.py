"""The end of the process: its streams end first, and then the server hears of it.

Servers that are told to stop wait for responses to end, which streams do not by themselves, or
cut them off. So the signals that tell them are caught: streams are ended with a ``retry:``, and
the signal is handed on to the handler that was there before. A thread does the waiting, for the
event loops must write meanwhile.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import multiprocessing
import os
import signal
import threading
import time
from types import FrameType
from typing import Any, NamedTuple

from . import brokers, hub, threads
from .conf import settings

logger = logging.getLogger("django_eventstream")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: For how many seconds streams may go on writing.
DRAIN_TIME = 1.5
#: For how many seconds the servers may write what they hold when the last stream has ended.
#: (Twisted, under daphne, drops what it could write in the next pass of its loop.)
SETTLE_TIME = 0.05
#: For how many seconds brokers may hand on what was published.
FLUSH_TIME = 0.4
#: For how many seconds new streams are turned away. A process that lives on serves them again.
STOPPING_TIME = 60.0
#: Every how many seconds hypercorn's event is looked at, as hypercorn does.
WATCH_INTERVAL = 0.1


class SignalHandler:
    """What a signal calls in place of the handler that was there, ``previous``."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """End the streams, then hand the signal on; at once, if it is not the first.

        It runs in the midst of anything, so it takes no lock. SIGTERM is repeated by parents and
        supervisors, not by somebody who cannot wait: while the first is postponed, that is all.
        """
        if signum == signal.SIGTERM and _end.is_postponing:
            return
        if not _end.note_signal() or not _end.begin(Postponed(self, signum, _running_loop())):
            _end.postponed = None
            self.hand_on(signum, frame)
        elif _running_loop() is None:
            # Nothing is held up: the streams are on loops of other threads.
            _end.drained.wait(DRAIN_TIME + SETTLE_TIME + FLUSH_TIME)
            _end.hand_on()

    def hand_on(self, signum: int, frame: FrameType | None = None) -> None:
        """Do what the signal would have done; in the main thread."""
        if callable(self.previous):
            # That of loop.add_signal_handler() does nothing: the loop was told by other means.
            self.previous(signum, frame)
        else:
            signal.signal(signum, self.previous)
            os.kill(os.getpid(), signum)


class Postponed(NamedTuple):
    """A signal that is handed on when the streams have ended."""

    handler: SignalHandler
    signum: int
    #: The event loop that runs in the main thread.
    loop: asyncio.AbstractEventLoop | None


class End:
    """What this process knows of its end."""

    def __init__(self) -> None:
        self.postponed: Postponed | None = None
        #: Set when the streams have ended.
        self.drained = threading.Event()
        #: Whether the event is watched by which hypercorn tells its workers.
        self.is_watching = False
        self._thread: threading.Thread | None = None
        # Until when, by the monotonic clock, new streams are turned away, and signals handed on
        # at once.
        self._stopping_until = 0.0
        self._passing_until = 0.0

    @property
    def is_stopping(self) -> bool:
        """Whether new streams are to end at once."""
        return time.monotonic() < self._stopping_until

    @property
    def is_postponing(self) -> bool:
        """Whether a signal is postponed, and going to be handed on."""
        if self.postponed is None:
            return False
        return self.postponed.loop is None or self.postponed.loop.is_running()

    def note_signal(self) -> bool:
        """Note that a signal came; return False if it is not the first."""
        now = time.monotonic()
        is_first = now >= self._passing_until
        self._passing_until = now + STOPPING_TIME
        return is_first

    def begin(self, postponed: Postponed | None = None) -> bool:
        """Begin to end the streams; return False if that cannot be."""
        self._stopping_until = time.monotonic() + STOPPING_TIME
        # Before the thread is looked at, which looks the other way round.
        self.postponed = postponed
        if self._thread is None:
            self.drained.clear()
            thread = threading.Thread(target=self._run, name="eventstream-shutdown", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:  # no thread is to be had
                self._thread = None
                return False
        return True

    def drain(self) -> None:
        """End the streams, and wait for that."""
        self._stopping_until = time.monotonic() + STOPPING_TIME
        if not hub.end_streams(DRAIN_TIME):
            logger.info("Some clients did not read the end of their streams; cut off")
        time.sleep(SETTLE_TIME)
        try:
            brokers.flush(FLUSH_TIME)
        except Exception:
            logger.exception("A broker failed while the process was ending")

    def hand_on(self) -> None:
        """Hand the postponed signal on, unless a second one has done so."""
        postponed, self.postponed = self.postponed, None
        if postponed is not None:
            postponed.handler.hand_on(postponed.signum)

    def _run(self) -> None:
        try:
            self.drain()
        finally:
            self._thread = None
            self.drained.set()
            postponed = self.postponed
            if postponed is not None and postponed.loop is not None:
                try:
                    postponed.loop.call_soon_threadsafe(self.hand_on)
                except RuntimeError:  # closed meanwhile; so a second signal, to the main thread
                    self.postponed = None
                    os.kill(os.getpid(), postponed.signum)


_end = End()


def is_stopping() -> bool:
    """Return whether new streams are to end at once."""
    return _end.is_stopping


def drain() -> None:
    """End the streams of this process, and wait for that, two seconds at most.

    For servers that are told to end by other means than a signal. Not to be called on an event
    loop, which must write meanwhile.
    """
    _end.drain()


def install(**kwargs: Any) -> None:
    """Have the streams end before the server is told to stop.

    Called at the start of each stream, and by ``runserver`` when its reloader has started: its
    streams are on other threads, and only the main thread can catch signals. Handlers that were
    installed over ours since the last call are wrapped in turn; ignored signals stay ignored.
    """
    if threading.current_thread() is not threading.main_thread() or not settings.clean_shutdown:
        return
    if threads.is_testing():
        return  # signals are the test runner's
    for signum in SIGNALS:
        previous = signal.getsignal(signum)
        # None: installed by something else than Python, which could not be called.
        if previous not in (None, signal.SIG_IGN) and not isinstance(previous, SignalHandler):
            signal.signal(signum, SignalHandler(previous))
    _watch_event()


def _watch_event() -> None:
    """Watch the event by which hypercorn, unless started with ``-w 0``, tells its workers.

    It is among the arguments of the worker's process. To wait for it would be a danger: the
    one who sets it then waits for those who wait, even if they were killed.
    """
    arguments = getattr(multiprocessing.current_process(), "_kwargs", {})
    event = arguments.get("shutdown_event")
    # Not what a project calls so, whose is_set() may be missing, or ask another process.
    if type(event).__module__ != "multiprocessing.synchronize":
        return
    loop = _running_loop()
    if event is None or loop is None or _end.is_watching:
        return
    _end.is_watching = True
    # In an empty context, or it would keep the first request's.
    context = contextvars.Context()

    def look() -> None:
        if event.is_set():
            _end.begin(_end.postponed)
        else:
            loop.call_later(WATCH_INTERVAL, look, context=context)

    look()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@atexit.register
def _drain_at_exit() -> None:
    """End streams on event loops of other threads, as those of ``runserver``."""
    if hub.count_streams() and settings.clean_shutdown:
        _end.drain()


def _renew() -> None:
    global _end
    _end = End()


# A forked child has none of its parent's threads and streams.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
