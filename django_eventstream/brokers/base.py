"""The contract of brokers."""

from __future__ import annotations

from collections.abc import Iterable

from django.core.checks import CheckMessage

from ..messages import Message


class BrokerBase:
    """What carries messages to the streams that are not in the sender's own process.

    A broker is a hint: what it loses of a reliable channel costs a read of the log, and what
    it repeats is dropped by its id. So it never fails, and never holds up, a sender.
    """

    #: Dotted path of a function that hands streams over to a proxy which this broker publishes
    #: to. Called with a request and the view's keyword arguments, it returns a response, or
    #: None where the stream is to be opened here. Called without keyword arguments (None), it
    #: answers only what goes on with a stream that was handed over before.
    handoff: str | None = None

    def check(self) -> Iterable[CheckMessage]:
        """Return what the system checks should say of the broker's settings."""
        return ()

    def close(self) -> None:
        """End what works for the broker; what it has not handed on yet is dropped."""

    def publish(self, message: Message, *, wait: bool = False) -> None:
        """Carry a message to every stream that it concerns; called from any thread.

        Messages of one thread keep their order on each channel. Returns at once, unless
        ``wait``: then after the message was handed on, or could not be. What is raised is
        logged, and keeps no other broker from its work.
        """
        raise NotImplementedError
