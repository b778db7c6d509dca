"""Sequence numbers: how a receiver notices that messages were repeated or lost on their way.

They are for what the log does not have: events without an id, and kicks. (Of events with ids
the feeds see as much by the ids.) A sender counts on each channel. A receiver hands messages
on in that order: a repeat is dropped, and for one that is missing the later ones wait a moment,
for it may only have been overtaken, or come by another broker; then it is a gap.

Times are seconds by a clock that both methods of one object get from the same place.
"""

from __future__ import annotations

from collections.abc import Collection

from .messages import Envelope, Gap, Message, Published, Stored, Tally

#: For how many seconds a message that is missing holds up those behind it, and for how many if
#: it may come by another broker: that may poll, or be behind.
PATIENCE = 0.1
PATIENCE_FOR_OTHERS = 1.5
#: How many messages wait for missing ones, per channel and sender.
MAX_AHEAD = 1000
#: How many senders are remembered per channel, and how many channels a sender counts on.
MAX_SENDERS = 1000
MAX_CHANNELS = 10_000


class Sequencer:
    """Numbers what one sender sends; ``sender`` is its name, which no other has."""

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self._era = 0
        # For each channel the last number, and when it was given.
        self._counts: dict[str, tuple[int, float]] = {}
        # The channels that were counted on since the last tally.
        self._changed: set[str] = set()

    def enclose(self, message: Message | Tally, now: float) -> Envelope:
        """Return an envelope for a message, with its number."""
        name = f"{self.sender}/{self._era}"
        if _is_numbered_by_log(message) or message.channel is None:
            return Envelope(message, name)
        if message.channel not in self._counts and len(self._counts) >= MAX_CHANNELS:
            # A count that began again would look like repeats; under a new name it does not.
            self._counts.clear()
            self._changed.clear()
            self._era += 1
            name = f"{self.sender}/{self._era}"
        last, sent_at = self._counts.get(message.channel, (0, now))
        self._counts[message.channel] = (last + 1, now)
        self._changed.add(message.channel)
        return Envelope(message, name, last + 1, now - sent_at)

    @property
    def has_changed(self) -> bool:
        """Whether there are counts that the last tally did not tell."""
        return bool(self._changed)

    def tally(self, now: float, busy: Collection[str] = ()) -> Envelope | None:
        """Return an envelope that tells the counts since the last one; None: there are none.

        Not those of ``busy`` channels, which the next one tells.
        """
        counts = {}
        for channel in sorted(self._changed.difference(busy)):
            last, sent_at = self._counts[channel]
            counts[channel] = (last, round(now - sent_at, 6))
        self._changed.difference_update(counts)
        if not counts:
            return None
        return Envelope(Tally(counts), f"{self.sender}/{self._era}")

    def tally_again(self, envelope: Envelope) -> None:
        """Take note that an envelope with counts could not be sent: the next has them too."""
        if isinstance(envelope.message, Tally):
            self._changed.update(envelope.message.counts.keys() & self._counts.keys())


def is_from(envelope: Envelope, sender: str) -> bool:
    """Return whether an envelope was sent by the Sequencer with this name."""
    return envelope.sender.rpartition("/")[0] == sender


def is_text_from(text: str | bytes, sender: str) -> bool:
    """Return the same for an envelope's text, by its beginning."""
    prefix = f'{{"from":"{sender}/'
    return text.startswith(prefix) if isinstance(text, str) else text.startswith(prefix.encode())


class Lane:
    """What came of one sender on one channel."""

    __slots__ = ("ahead", "known", "last", "since")

    def __init__(self) -> None:
        #: The highest number that the sender is known to have used.
        self.known = 0
        #: The number of the last message that was handed on, or is not waited for.
        self.last = 0
        #: Messages that came before their turn.
        self.ahead: dict[int, Message] = {}
        #: Since when something is missing.
        self.since = 0.0


class Resequencer:
    """Puts what comes in by all brokers in order, for the channels that somebody reads."""

    def __init__(self) -> None:
        #: ``PATIENCE``, or another one.
        self.patience = PATIENCE
        # For each channel since when it is listened to, and its lanes by sender.
        self._channels: dict[str, tuple[float, dict[str, Lane]]] = {}
        # The lanes where something is missing, and their channels.
        self._waiting: dict[Lane, str] = {}
        self._since = 0.0

    def join(self, channel: str, now: float) -> None:
        """Look after a channel from now on."""
        self._channels[channel] = (now, {})

    def leave(self, channel: str) -> None:
        """Look after a channel no more."""
        _, lanes = self._channels.pop(channel, (0.0, {}))
        for lane in lanes.values():
            self._waiting.pop(lane, None)

    def restart(self, now: float) -> None:
        """Note that messages from before now may be missing, which was or will be told."""
        self._since = now

    def receive(self, envelope: Envelope, now: float) -> list[Message]:
        """Take an envelope; return the messages whose turn has come."""
        message, number = envelope.message, envelope.sequence
        ready: list[Message] = []
        if isinstance(message, Tally):
            for name, (last, ago) in message.counts.items():
                if name in self._channels:
                    lane = self._find_lane(name, envelope.sender)
                    ready += self._pass_over(lane, name, last, ago, now)
                    ready += _take_ready(lane)
                    self._note_known(lane, name, last, now)
            return ready
        channel = message.channel
        if channel is None or number is None:
            return [message]
        if channel not in self._channels:
            return []
        lane = self._find_lane(channel, envelope.sender)
        if number <= lane.last or number in lane.ahead:
            return []
        ready = self._pass_over(lane, channel, number - 1, envelope.pause, now)
        lane.ahead[number] = message
        ready += _take_ready(lane)
        if len(lane.ahead) > MAX_AHEAD:
            ready += _give_up(lane, channel)
        self._note_known(lane, channel, number, now)
        return ready

    def _find_lane(self, channel: str, sender: str) -> Lane:
        _, lanes = self._channels[channel]
        lane = lanes[sender] = lanes.pop(sender) if sender in lanes else Lane()
        if len(lanes) > MAX_SENDERS:  # the one that was silent for longest goes
            self._waiting.pop(lanes.pop(next(iter(lanes))), None)
        return lane

    def _pass_over(
        self, lane: Lane, channel: str, number: int, ago: float, now: float
    ) -> list[Message]:
        """Do not wait for messages up to ``number`` if they were sent before they could be heard.

        Return those that are there. The sender's clock may not be ours, so it says how long
        ago that was; what the telling took is on the safe side.
        """
        since, _ = self._channels[channel]
        if now - max(since, self._since) >= ago:
            return []
        there = [lane.ahead.pop(other) for other in sorted(lane.ahead) if other <= number]
        lane.last = max(lane.last, number)
        return there

    def _note_known(self, lane: Lane, channel: str, number: int, now: float) -> None:
        lane.known = max(lane.known, number)
        if lane.known <= lane.last:
            self._waiting.pop(lane, None)
        elif lane not in self._waiting:
            lane.since = now
            self._waiting[lane] = channel

    def give_up(self, now: float) -> list[Message]:
        """Return a gap for each channel where something is missing for too long, and the rest."""
        messages: list[Message] = []
        for lane, channel in list(self._waiting.items()):
            if now - lane.since >= self.patience:
                messages += _give_up(lane, channel)
                del self._waiting[lane]
                self._note_known(lane, channel, lane.known, now)
        return messages

    @property
    def is_waiting(self) -> bool:
        """Whether something is missing, so that ``give_up`` must be called in a while."""
        return bool(self._waiting)


def _is_numbered_by_log(message: Message | Tally) -> bool:
    return isinstance(message, Stored) or (
        isinstance(message, Published) and message.event.id is not None
    )


def _take_ready(lane: Lane) -> list[Message]:
    ready = []
    while (message := lane.ahead.pop(lane.last + 1, None)) is not None:
        lane.last += 1
        ready.append(message)
    return ready


def _give_up(lane: Lane, channel: str) -> list[Message]:
    """Stop waiting for what is missing before the first message that waits."""
    lane.last = min(lane.ahead, default=lane.known + 1) - 1
    return [Gap(channel), *_take_ready(lane)]
