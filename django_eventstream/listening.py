"""What a hub hears from other processes, by whatever brokers."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from . import brokers
from .brokers.base import BrokerBase
from .exceptions import describe
from .messages import Envelope, Gap, Message, Revoked, Unreadable
from .sequence import PATIENCE, PATIENCE_FOR_OTHERS, Resequencer

logger = logging.getLogger("django_eventstream")

#: For how many seconds the first streams wait for the brokers to be connected.
READY_PATIENCE = 3.0
#: The first and the longest pause, in seconds, between tries to listen.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
#: Every how many seconds it is logged, at most, that something came which is no message.
REPORT_INTERVAL = 60.0


class Listening:
    """The listeners of one event loop, each supervised, and the order of what they hear.

    ``deliver`` takes the messages, ``note_revoked`` kicks before all else. ``start`` starts a
    task, which the owner keeps and cancels.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Message], None],
        note_revoked: Callable[[Revoked], None],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._note_revoked = note_revoked
        self._start = start
        self._resequencer = Resequencer()
        self._is_settling = False
        self._silent_until = 0.0
        self._attempts: list[asyncio.Future[None]] = []
        #: Since when, by ``time.monotonic``, nothing is missed; None: not before now.
        self.since: float | None = None
        #: Whether a stream was opened before every broker was connected.
        self.is_late = False

    def begin(self, all_brokers: Iterable[BrokerBase]) -> None:
        """Listen by those brokers that have something to hear."""
        self.since = None
        listening = [broker for broker in all_brokers if broker.listens]
        self._resequencer.patience = PATIENCE_FOR_OTHERS if len(listening) > 1 else PATIENCE
        for broker in listening:
            listener = _Listener(self, type(broker).__name__, self._loop.create_future())
            self._attempts.append(listener.tried)
            self._start(self._supervise(broker, listener))

    @property
    def is_ready(self) -> bool:
        """Whether each broker is connected, or could not be."""
        return all(attempt.done() for attempt in self._attempts)

    async def wait_until_ready(self) -> None:
        """Wait until each broker is connected, or cannot be, or takes too long."""
        if waiting := [attempt for attempt in self._attempts if not attempt.done()]:
            await asyncio.wait(waiting, timeout=READY_PATIENCE)
        if any(not attempt.done() for attempt in self._attempts):
            self.is_late = True

    def join(self, channel: str) -> None:
        """Hand on what comes on a channel."""
        self._resequencer.join(channel, time.monotonic())

    def leave(self, channel: str) -> None:
        """Drop what comes on a channel."""
        self._resequencer.leave(channel)

    # Inside

    async def _supervise(self, broker: BrokerBase, listener: _Listener) -> None:
        name = type(broker).__name__
        pause = FIRST_PAUSE
        while True:
            listener.is_connected = False
            error = "it ended"
            try:
                await broker.listen(listener)
            except Exception as caught:
                error = describe(caught)
            if listener.is_connected:
                pause = FIRST_PAUSE
            listener.finish()
            if not listener.is_failing:
                listener.is_failing = True
                logger.warning("%s does not hear other processes, trying again: %s", name, error)
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, LONGEST_PAUSE)

    def note_connected(self, *, again: bool) -> None:
        """Take note that a broker is connected; ``again``: streams may have missed something."""
        self.since = time.monotonic()
        self._resequencer.restart(self.since)
        if again:
            self._deliver(Gap())

    def receive(self, text: str | bytes) -> None:
        """Take what a broker heard."""
        if brokers.is_text_of_own(text):
            return
        try:
            envelope = Envelope.from_text(text)
        except Unreadable as error:
            now = time.monotonic()
            if now >= self._silent_until:
                self._silent_until = now + REPORT_INTERVAL
                logger.warning("A broker carried what is no message: %.200s", error)
            self._deliver(Gap())
            return
        if isinstance(envelope.message, Revoked):
            self._note_revoked(envelope.message)
        for message in self._resequencer.receive(envelope, time.monotonic()):
            self._deliver(message)
        self._settle_later()

    def _settle_later(self) -> None:
        if self._resequencer.is_waiting and not self._is_settling:
            self._is_settling = True
            self._loop.call_later(self._resequencer.patience, self._settle)

    def _settle(self) -> None:
        self._is_settling = False
        for message in self._resequencer.give_up(time.monotonic()):
            self._deliver(message)
        self._settle_later()


class _Listener:
    """What one broker tells what it hears."""

    def __init__(self, listening: Listening, name: str, tried: asyncio.Future[None]) -> None:
        self._listening = listening
        self._name = name
        #: Done after the first try to connect.
        self.tried = tried
        self.is_connected = False
        #: Whether it was logged that it cannot listen.
        self.is_failing = False

    def connected(self) -> None:
        """Note that from now on every message is heard."""
        again = self.tried.done() or self._listening.is_late
        self.is_connected = True
        if self.is_failing:
            self.is_failing = False
            logger.warning("%s hears other processes again.", self._name)
        self._listening.note_connected(again=again)
        self.finish()

    def receive(self, text: str | bytes) -> None:
        """Take a message."""
        self._listening.receive(text)

    def finish(self) -> None:
        """Let the streams that wait for the connection go on."""
        if not self.tried.done():
            self.tried.set_result(None)
