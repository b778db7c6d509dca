"""The broker on a Channels channel layer, the project's default one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from ..messages import Envelope, Gap, Tally
from . import enclose
from .base import Listener, elapsed, read_clocks
from .outbox import Outbox, OutboxBroker, Unreachable

#: The group of all processes with streams, and the type of its messages.
GROUP = "django_eventstream"
TYPE = "eventstream.message"
#: For how many seconds the layer may take for a message.
PATIENCE = 5.0
#: Every how many seconds a listener joins the group again: a layer forgets its members in time,
#: or when its server is flushed.
JOIN_INTERVAL = 30.0
#: The expiry, in seconds, of layers that do not say theirs.
DEFAULT_EXPIRY = 60.0


class ChannelsBroker(OutboxBroker):
    """Sends to a group of the channel layer.

    What a full layer drops is a hole in the sequence.
    """

    listens = True

    def __init__(self) -> None:
        self._layer: Any = get_channel_layer()
        if self._layer is None:
            raise ImproperlyConfigured(
                f"CHANNEL_LAYERS has no {DEFAULT_CHANNEL_LAYER!r} layer, which the Channels "
                "broker of EVENTSTREAM_BROKER needs: configure one, such as channels_redis."
            )
        self.outboxes = [Outbox(_Sender(self._layer))]

    @property
    def reaches_other_processes(self) -> bool:  # type: ignore[override]
        """Whether the layer does."""
        return not isinstance(self._layer, InMemoryChannelLayer)

    def check(self) -> Iterable[checks.CheckMessage]:
        """Check that the layer connects processes."""
        if not self.reaches_other_processes:
            yield checks.Warning(
                "EVENTSTREAM_BROKER is 'channels', and the channel layer is in memory: it "
                "connects no processes.",
                hint="Configure another one in CHANNEL_LAYERS, such as channels_redis, or set "
                "EVENTSTREAM_BROKER to 'memory' if there is one process only.",
                id="django_eventstream.W009",
            )

    async def listen(self, listener: Listener) -> None:
        """Join the group, and hand on what comes."""
        channel = await self._layer.new_channel("eventstream")
        await self._layer.group_add(GROUP, channel)
        joined_at = time.monotonic()
        receiving: asyncio.Future[dict[str, Any]] | None = None
        # After how many seconds the layer throws away what nobody has received.
        expiry = getattr(self._layer, "expiry", DEFAULT_EXPIRY)
        began = read_clocks()
        try:
            listener.connected()
            while True:
                last, began = began, read_clocks()
                if elapsed(last, began) > expiry:
                    return  # the process stood still
                if receiving is None:
                    receiving = asyncio.ensure_future(self._layer.receive(channel))
                await asyncio.wait({receiving}, timeout=min(JOIN_INTERVAL, expiry / 2))
                if receiving.done():
                    message, receiving = receiving.result(), None
                    if message.get("type") == TYPE:
                        listener.receive(message["text"])
                if time.monotonic() - joined_at > JOIN_INTERVAL:
                    joined_at = time.monotonic()
                    await self._layer.group_add(GROUP, channel)
        finally:
            while receiving is not None and not receiving.done():
                receiving.cancel()  # which channels_redis may pass over for 5 s
                await asyncio.wait({receiving}, timeout=0.1)
            with contextlib.suppress(Exception):  # the layer, out of reach, forgets us in time
                await asyncio.wait_for(self._layer.group_discard(GROUP, channel), PATIENCE)


class _Sender:
    """What the outbox has messages carried by, on an event loop of its own."""

    name = "The channel layer"

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def carry(self, envelopes: Sequence[Envelope]) -> None:
        """Send messages. Raises Unreachable."""
        try:
            asyncio.run(self._send(envelopes))
        except Exception as error:  # of whatever type the layer has
            # What it has sent all the same is a repeat, which listeners drop.
            raise Unreachable(f"{type(error).__name__}: {error}", sent=False) from error

    async def _send(self, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            message = {"type": TYPE, "text": envelope.text}
            await asyncio.wait_for(self._layer.group_send(GROUP, message), PATIENCE)

    def tell_losses(self, lost: Mapping[str, bool]) -> None:
        """Send gaps. Raises Unreachable."""
        self.carry([enclose(Gap(channel)) for channel in lost])

    def probe(self) -> None:
        """Send a message that tells nothing. Raises Unreachable."""
        self.carry([enclose(Tally({}))])
