"""Messages on their way to a proxy or another server, which must not hold up their senders."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from itertools import islice
from multiprocessing.util import Finalize
from typing import NamedTuple, Protocol

from .. import threads
from ..messages import Envelope, Gap, Published, Revoked
from .base import BrokerBase

logger = logging.getLogger("django_eventstream")

#: How many messages, and characters of data, may wait; beyond that the oldest are lost.
CAPACITY = 10_000
MAX_SIZE = 1 << 24
#: How many messages, and about how many characters of data, are carried at a time. Pushpin
#: takes a million bytes.
BATCH = 100
BATCH_SIZE = 200_000
#: The first and the longest pause, in seconds, between tries to reach a proxy.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
#: After how many failures in a row it is looked into whether a proxy is down, or will never take
#: what fails; and how often in a row that must fail right after a probe went through.
TRIES = 3
PROOFS = 3
#: After how many idle seconds the thread ends.
IDLE_TIME = 10.0
#: For how many seconds a process that ends waits for what is to be carried.
EXIT_PATIENCE = 3.0


class Unreachable(Exception):
    """A proxy cannot take anything now; ``sent``: it may have taken this, all the same.

    ``busy``: it says itself that it is there, and to come again later.
    """

    def __init__(self, reason: str, *, sent: bool = False, busy: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.busy = busy


class Refused(Exception):
    """A proxy will never take this."""


class Carrier(Protocol):
    """What talks to a proxy. Its methods raise Unreachable and Refused."""

    #: What the log calls the proxy.
    name: str

    def carry(self, envelopes: Sequence[Envelope]) -> None:
        """Give messages to the proxy, in their order."""

    def tell_losses(self, lost: Mapping[str, bool]) -> None:
        """Tell the streams of channels that they missed events; True: a reliable channel."""

    def probe(self) -> None:
        """Publish something small that nobody takes note of, as messages are published."""


class Letter(NamedTuple):
    """A message that waits, and the future of its sender."""

    envelope: Envelope
    taken: Future[None]

    @property
    def channel(self) -> str:
        """The channel that the message is for; "" if it is for several."""
        return self.envelope.message.channel or ""

    @property
    def size(self) -> int:
        """How many characters of data it has."""
        message = self.envelope.message
        return len(message.event.data) if isinstance(message, Published) else 0

    @property
    def is_event(self) -> bool:
        """Whether streams that do not get it miss something."""
        return isinstance(self.envelope.message, Published)

    @property
    def is_kick(self) -> bool:
        """Whether a stream that does not get it goes on without permission."""
        return isinstance(self.envelope.message, Revoked)

    @property
    def is_reliable(self) -> bool:
        """Whether publishing it twice does no harm."""
        message = self.envelope.message
        return not isinstance(message, Published) or message.event.id is not None

    def finish(self) -> None:
        """Let the sender go on."""
        if not self.taken.done():
            self.taken.set_result(None)


class Outbox:
    """The messages that wait for a proxy, and the thread that has them carried there in order.

    While the proxy cannot be reached they stay, as many as there is room for, and it is tried
    again after a pause that grows. What is lost all the same is told to the streams later: a
    reliable channel's read the log, an unreliable channel's get a ``stream-reset``.

    A proxy that is there, and will never take a message, need not say so: Redis just ends the
    connection. So before what fails again and again is tried, a probe is. Once a probe went
    through, several times in a row, and the message failed right after it, the message is lost
    as one that is refused, and all behind it goes on. A probe is no message of anybody's, so an
    outage loses nothing and changes no order.
    """

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._changed = threading.Condition()
        # Guarded by it: what waits, and what is being published.
        self._waiting: deque[Letter] = deque()
        self._size = 0
        self._batch: list[Letter] = []
        # The channels that lost events, and whether they are reliable.
        self._lost: dict[str, bool] = {}
        # How many letters, or losses, go one by one, for one among them was refused.
        self._singly = 0
        # How often what is being published failed, and how often in a row right after a probe
        # that went through; and whether the last probe did, if nothing was tried since.
        self._failures = 0
        self._proofs = 0
        self._is_there = False
        self._failing = False
        self._closed = False
        self._thread: threading.Thread | None = None
        # Also at the end of multiprocessing's children, where atexit is not called; and not in
        # a forked child, which has no thread that would empty it.
        Finalize(None, _flush_at_exit, [self], exitpriority=0)

    def put(self, envelope: Envelope) -> Future[None]:
        """Have a message published.

        The future is done when the proxy took it, or turned out unreachable.
        """
        taken: Future[None] = Future()
        if isinstance(envelope.message, Gap) or self._closed:  # hubs look after gaps
            taken.set_result(None)
            return taken
        letter = Letter(envelope, taken)
        with self._changed:
            self._waiting.append(letter)
            self._size += letter.size
            while len(self._waiting) > CAPACITY or (
                self._size > MAX_SIZE and len(self._waiting) > 1
            ):
                self._lose_oldest()
            if self._failing:
                letter.finish()
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="eventstream-outbox", daemon=True)
                thread.start()  # which may fail
                self._thread = thread
            self._changed.notify_all()
        return taken

    def flush(self, timeout: float) -> None:
        """Wait until all is published, for ``timeout`` seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_busy(), timeout)

    def close(self) -> None:
        """Drop what waits, and end the thread."""
        with self._changed:
            self._closed = True
            for letter in [*self._batch, *self._waiting]:
                letter.finish()
            self._waiting.clear()
            self._batch = []
            self._lost = {}
            self._changed.notify_all()

    def _work(self) -> None:
        """Publish what comes, until nothing has for a while."""
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._is_busy(), IDLE_TIME)
                if not self._is_busy():
                    self._thread = None
                    return
                lost = self._choose()
                batch = list(self._batch)
            try:
                if lost:
                    self._carrier.tell_losses(lost)
                else:
                    self._carrier.carry([letter.envelope for letter in batch])
            except Unreachable as error:
                self._note_failure(error, lost)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause * random.uniform(0.5, 1))
                    is_in_doubt = self._failures >= TRIES and not self._closed
                pause = min(pause * 2, LONGEST_PAUSE)
                if is_in_doubt and self._probe():
                    pause = FIRST_PAUSE
            except Exception as error:
                self._note_refusal(error, lost)
            else:
                self._note_success(lost)
                pause = FIRST_PAUSE

    def _probe(self) -> bool:
        """Return whether the proxy takes anything."""
        try:
            self._carrier.probe()
        except Exception:  # also what it refuses: that tells nothing of messages
            self._is_there = False
        else:
            self._is_there = True
        return self._is_there

    # Inside, the lock held

    def _is_busy(self) -> bool:
        return bool(self._waiting or self._batch or self._lost)

    def _take_first(self) -> Letter:
        letter = self._waiting.popleft()
        self._size -= letter.size
        return letter

    def _lose_oldest(self) -> None:
        """Lose what waits longest; not a kick, which nothing makes up for."""
        oldest = next((one for one in self._waiting if one.is_event), self._waiting[0])
        self._waiting.remove(oldest)
        self._size -= oldest.size
        self._lose(oldest)

    def _choose(self) -> Mapping[str, bool]:
        """Return which losses are next to be told, or else fill the batch."""
        if self._batch:  # until it is taken or lost, or what fails would take turns for ever
            return {}
        limit = 1 if self._singly else BATCH
        lost = dict(islice(self._lost.items(), limit))
        if not lost:
            self._fill_batch(limit)
        return lost

    def _fill_batch(self, limit: int) -> None:
        size = 0
        while self._waiting and len(self._batch) < limit and size < BATCH_SIZE:
            letter = self._take_first()
            self._batch.append(letter)
            size += letter.size

    def _lose(self, letter: Letter) -> None:
        channel = letter.channel
        if len(self._lost) < CAPACITY or channel in self._lost:
            if letter.is_event:
                self._lost[channel] = letter.is_reliable
            elif letter.is_kick:  # who is told of a loss has the permission checked again
                self._lost.setdefault(channel, True)
        letter.finish()

    def _go_on(self) -> None:
        """Turn to what is next."""
        self._batch = []
        self._singly = max(0, self._singly - 1)
        self._failures = self._proofs = 0
        self._changed.notify_all()

    def _split(self, lost: Mapping[str, bool]) -> None:
        """Have what was tried together tried one by one."""
        self._singly = len(lost or self._batch)
        self._waiting.extendleft(reversed(self._batch))
        self._size += sum(letter.size for letter in self._batch)
        self._batch = []
        self._proofs = 0

    def _refuse(self, error: Exception, lost: Mapping[str, bool]) -> None:
        """Lose what the proxy will never take, once it is known which."""
        if len(lost or self._batch) > 1:
            self._split(lost)
            return
        for channel in lost or [letter.channel for letter in self._batch]:
            logger.error("%s refused channel %r: %s", self._carrier.name, channel, error)
        for channel in lost:
            self._lost.pop(channel, None)
        for letter in self._batch:
            self._lose(letter)
        self._go_on()

    # Inside, what became of a try

    def _note_success(self, lost: Mapping[str, bool]) -> None:
        with self._changed:
            if self._failing:
                logger.warning("%s can be reached again.", self._carrier.name)
            self._failing = False
            for channel in lost:
                self._lost.pop(channel, None)
            for letter in self._batch:
                letter.finish()
            self._go_on()

    def _note_failure(self, error: Unreachable, lost: Mapping[str, bool]) -> None:
        with self._changed:
            if not self._failing:
                logger.warning("%s cannot be reached, trying again: %s", self._carrier.name, error)
            self._failing = True
            # What it may have taken is not published twice where it could be seen.
            for letter in [letter for letter in self._batch if error.sent]:
                if not letter.is_reliable:
                    self._batch.remove(letter)
                    self._lose(letter)
            for letter in [*self._batch, *self._waiting]:
                letter.finish()
            if not error.busy:
                self._failures += 1
            self._proofs = self._proofs + 1 if self._is_there and not error.busy else 0
            self._is_there = False
            count = len(lost or self._batch)
            if not count:
                self._go_on()
            elif self._proofs >= (PROOFS if count == 1 else 1):
                self._refuse(error, lost)

    def _note_refusal(self, error: Exception, lost: Mapping[str, bool]) -> None:
        with self._changed:
            self._refuse(error, lost)


# When the process that ends stops waiting, for all of its outboxes together; and its id.
_exit: tuple[int, float] | None = None


def _flush_at_exit(outbox: Outbox) -> None:
    global _exit
    if _exit is None or _exit[0] != os.getpid():
        _exit = os.getpid(), time.monotonic() + EXIT_PATIENCE
    outbox.flush(max(0.0, _exit[1] - time.monotonic()))


class OutboxBroker(BrokerBase):
    """A broker whose messages go out from threads of their own; it sets ``outboxes``.

    So no sender waits for a server unless it wants to, and none on an event loop does.
    """

    outboxes: Sequence[Outbox] = ()
    #: For how many seconds a sender waits that wants to.
    patience = 5.0

    def publish(self, envelope: Envelope, *, wait: bool = False) -> None:
        """Have a message carried, or wait until it was, or every server turned out unreachable."""
        self.publish_many([envelope], wait=wait)

    def publish_many(self, envelopes: Sequence[Envelope], *, wait: bool = False) -> None:
        """Have messages carried; waits for all of them together, but on no event loop."""
        taken = [outbox.put(envelope) for outbox in self.outboxes for envelope in envelopes]
        if threads.is_on_event_loop():
            return
        if wait and futures.wait(taken, self.patience).not_done:
            name = type(self).__name__
            logger.warning("%s: an event is not taken after %g s yet", name, self.patience)

    def flush(self, timeout: float) -> None:
        """Wait until all has been taken."""
        deadline = time.monotonic() + timeout
        for outbox in self.outboxes:
            outbox.flush(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End the outboxes' threads."""
        for outbox in self.outboxes:
            outbox.close()
