"""The contract of brokers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from django.core.checks import CheckMessage

from ..messages import Envelope

#: A time, in seconds, by the monotonic clock and by the wall clock: the first may stand still
#: with the machine, the second may be set back.
Clocks: TypeAlias = tuple[float, float]


def read_clocks() -> Clocks:
    """Return what time it is."""
    return time.monotonic(), time.time()


def elapsed(since: Clocks, until: Clocks) -> float:
    """Return how many seconds have passed, by the clock that says more."""
    return max(later - earlier for earlier, later in zip(since, until, strict=True))


class Listener(Protocol):
    """What takes the messages that a broker hears; on the event loop that it listens on."""

    def connected(self) -> None:
        """Note that from now on every message is heard.

        To be called again after each interruption, however short: what was sent meanwhile is
        then made up for.
        """

    def receive(self, text: str | bytes) -> None:
        """Take ``Envelope.text`` as another process published it; it may come twice."""


class BrokerBase:
    """What carries messages to the streams that are not in the sender's own process.

    A broker is a hint: what it loses of a reliable channel costs a read of the log, and what
    it repeats is dropped. So it never fails, and never holds up, a sender. There is one object
    for each process, made when it is first used.

    ``django_eventstream.testing.BrokerContractTests`` checks an implementation that listens.
    """

    #: Whether other processes hear what is published; a property may decide.
    reaches_other_processes: bool = True

    #: Whether ``listen`` is to be called in processes with streams.
    listens: bool = False

    #: Whether single messages may get lost without a word. Then how many there were is told a
    #: moment later, so that the loss is noticed even if nothing follows.
    is_lossy: bool = True

    #: Dotted path of a function that hands streams over to a proxy which this broker publishes
    #: to. Called with a request and the view's keyword arguments, it returns a response, or
    #: None where the stream is to be opened here. Called without keyword arguments (None), it
    #: answers only what goes on with a stream that was handed over before.
    handoff: str | None = None

    def check(self) -> Iterable[CheckMessage]:
        """Return what the system checks should say of the broker's settings."""
        return ()

    def publish(self, envelope: Envelope, *, wait: bool = False) -> None:
        """Carry a message to every process with streams.

        Called from any thread, also on event loops, which it must not hold up.

        ``envelope.text`` is what their ``listen`` is to hand on, ``envelope.message`` the
        message itself. Returns at once, unless ``wait``: then after the message was handed on,
        or could not be, but not on an event loop. What is raised is logged, and keeps no other
        broker from its work.
        """
        raise NotImplementedError

    def publish_many(self, envelopes: Sequence[Envelope], *, wait: bool = False) -> None:
        """Carry messages, in their order; as ``publish``, which this default calls for each."""
        for envelope in envelopes:
            self.publish(envelope, wait=wait)

    async def listen(self, listener: Listener) -> None:
        """Listen, and tell the listener, until the connection is lost or this is cancelled.

        Called at the first stream of an event loop, on that loop; when it returns or raises,
        it is called again after a pause. What was published after ``listener.connected()`` is
        given to ``listener.receive``, in its order as far as the broker can.
        """
        raise NotImplementedError

    def flush(self, timeout: float) -> None:
        """Wait until what was published has been handed on, ``timeout`` seconds at most.

        Called when the process is about to end.
        """

    def close(self) -> None:
        """End what works for the broker; what it has not handed on yet is dropped."""
