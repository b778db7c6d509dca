"""The network between processes: a broker that loses, repeats, delays and reorders."""

from __future__ import annotations

import asyncio
from collections import deque

from django_eventstream.brokers import BrokerBase
from django_eventstream.messages import Envelope, Published, Stored


class Bus:
    """What all processes publish on. The rates say what happens to one copy of a message."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.subscriptions = []
        self.loss_rate = 0.0
        self.loses_tallies = False
        self.repeat_rate = 0.0
        self.reorder_rate = 0.0
        self.garble_rate = 0.0
        #: Seconds by which a copy is late at most.
        self.delay = 0.0
        #: Processes that cannot reach it.
        self.unreachable = set()
        #: (sender, receiver, channel) of the copies that got lost without a disconnect.
        self.lost = set()

    def publish(self, process, channel, text):
        if process in self.unreachable:
            for subscription in self.subscriptions:
                self.lost.add((process, subscription.process, channel))
            raise ConnectionError("the bus cannot be reached")
        for subscription in self.subscriptions:
            self._carry(process, subscription, channel, text)

    def _carry(self, process, subscription, channel, text):
        choose = self.scheduler.random.random
        if choose() < self.loss_rate and (channel is not None or self.loses_tallies):
            self.scheduler.note(f"bus: lost on the way to {subscription.process}: {text}")
            self.lost.add((process, subscription.process, channel))
            return
        if choose() < self.garble_rate:
            text = text[: int(choose() * len(text))]
        for _ in range(2 if choose() < self.repeat_rate else 1):
            place = len(subscription.queue)
            if choose() < self.reorder_rate:
                place = int(choose() * (place + 1))
            subscription.queue.insert(place, text)
            delay = self.scheduler.latency() + self.delay * choose()
            self.scheduler.later(delay, subscription.process, subscription.arrive)

    def subscribe(self, process):
        if process in self.unreachable:
            raise ConnectionError("the bus cannot be reached")
        subscription = Subscription(process)
        self.subscriptions.append(subscription)
        return subscription

    def disconnect(self, process, *, end=False):
        """Break a process's connections; ``end``: nobody is left to be told."""
        for subscription in [*self.subscriptions]:
            if subscription.process is process:
                self.subscriptions.remove(subscription)
                if not end:
                    subscription.lose()


class Subscription:
    """A process's connection to the bus."""

    def __init__(self, process):
        self.process = process
        self._loop = asyncio.get_running_loop()
        #: On the way, and there.
        self.queue = deque()
        self.arrived = deque()
        self._lost = False
        self._waiter = None

    def arrive(self):
        """Let one text of those on their way arrive."""
        if not self._lost:
            self.arrived.append(self.queue.popleft())
            self._wake()

    def lose(self):
        self._lost = True
        self._wake()

    async def next(self):
        """Return what has arrived, or raise ConnectionError."""
        while not self.arrived and not self._lost:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._lost:
            raise ConnectionError("the connection to the bus was lost")
        texts = [*self.arrived]
        self.arrived.clear()
        return texts

    def _wake(self):
        if self._waiter is not None:
            self._loop.call_soon_threadsafe(_set, self._waiter)


def _set(waiter):
    if not waiter.done():
        waiter.set_result(None)


class Broker(BrokerBase):
    """One process's broker, on the bus."""

    listens = True

    def __init__(self, bus, process, *, is_lean=False):
        self._bus = bus
        self._process = process
        #: Whether it carries the ids of events instead of events that the log has.
        self.is_lean = is_lean

    def publish(self, envelope, *, wait=False):
        message = envelope.message
        if self.is_lean and isinstance(message, Published) and message.event.id is not None:
            envelope = Envelope(Stored(message.channel, message.event.id), envelope.sender)
        self._bus.publish(self._process, message.channel, envelope.text)

    async def listen(self, listener):
        await asyncio.sleep(self._bus.scheduler.latency())
        subscription = self._bus.subscribe(self._process)
        try:
            await asyncio.sleep(self._bus.scheduler.latency())
            listener.connected()
            while True:
                for text in await subscription.next():
                    listener.receive(text)
        finally:
            if subscription in self._bus.subscriptions:
                self._bus.subscriptions.remove(subscription)
