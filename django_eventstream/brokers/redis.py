"""The broker on Redis: a single server, Sentinel or Cluster, by publish and subscribe.

All processes of a project share one Redis channel.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .. import redisclients
from ..conf import settings
from ..messages import Envelope, Gap, Tally
from . import enclose
from .base import Listener
from .outbox import Outbox, OutboxBroker, Unreachable

# isort: split
import redis  # behind redisclients, which says what to do where it is missing
import redis.asyncio

#: After how many idle seconds a listener asks whether Redis is still there, and how long it may
#: take to answer. Nothing else ends a connection that is idle.
PING_INTERVAL = 15.0


class RedisBroker(OutboxBroker):
    """Publishes from a thread of its own, so that senders never wait for Redis."""

    listens = True

    def __init__(self) -> None:
        setting = "EVENTSTREAM_REDIS" if settings.redis else "EVENTSTREAM_STORAGE_CONNECTION"
        config = settings.redis or settings.storage_connection
        if not config:
            raise ImproperlyConfigured(
                "EVENTSTREAM_REDIS is missing, which the Redis broker needs: set it to a URL such "
                "as 'redis://localhost:6379/0'."
            )
        self._options = redisclients.read_config(config, setting)
        # Redis has one space of names for all of its numbered databases.
        self._channel = f"django_eventstream:{self._options.get('db') or 0}"
        self.outboxes = [Outbox(_Publisher(self._options, self._channel))]

    async def listen(self, listener: Listener) -> None:
        """Subscribe, and hand on what comes."""
        client = await self._get_client()
        try:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe(self._channel)
                is_asked = False
                while True:
                    message = await pubsub.get_message(timeout=PING_INTERVAL)
                    if message is None:
                        if is_asked:
                            raise redis.ConnectionError("Redis does not answer")
                        await pubsub.ping()
                        is_asked = True
                        continue
                    is_asked = False
                    if message["type"] == "message":
                        listener.receive(message["data"])
                    elif message["type"] == "subscribe":
                        # Also when redis-py has silently connected again.
                        listener.connected()
        finally:
            await redisclients.aclose(client)

    async def _get_client(self) -> redis.asyncio.Redis:
        """Return a client that can subscribe; it tells of a lost connection by an error."""
        options = self._options
        if options.get("cluster"):
            options = await _find_node(options)
        client = redisclients.get_async_client(options, retry=False)
        assert isinstance(client, redis.asyncio.Redis)
        return client


async def _find_node(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how to connect to one node of a Cluster: each hears what any is told to publish."""
    cluster = redisclients.get_async_client(options, retry=False)
    assert isinstance(cluster, redis.asyncio.RedisCluster)
    try:
        await cluster.initialize()
        node = random.choice(cluster.get_nodes())
    finally:
        await redisclients.aclose(cluster)
    others = {name: options[name] for name in options if name not in ("cluster", "startup_nodes")}
    return {**others, "host": node.host, "port": node.port}


class _Publisher:
    """What the outbox has messages carried by."""

    def __init__(self, options: Mapping[str, Any], channel: str) -> None:
        place = options.get("sentinels") or options.get("unix_socket_path")
        self.name = f"Redis at {place or options.get('host', 'localhost')}"
        self._options = options
        self._channel = channel
        self._client: redisclients.Client | None = None

    def carry(self, envelopes: Sequence[Envelope]) -> None:
        """Publish messages. Raises Unreachable."""
        try:
            if self._client is None:  # a Cluster connects at once
                self._client = redisclients.get_client(self._options, retry=False)
            if isinstance(self._client, redis.RedisCluster):
                for envelope in envelopes:
                    self._client.publish(self._channel, envelope.text)
            else:
                pipeline = self._client.pipeline(transaction=False)
                for envelope in envelopes:
                    pipeline.publish(self._channel, envelope.text)
                pipeline.execute()
        except (redis.RedisError, redis.RedisClusterException, OSError) as error:
            # What it has published all the same is a repeat, which listeners drop.
            raise Unreachable(f"{type(error).__name__}: {error}", sent=False) from error

    def tell_losses(self, lost: Mapping[str, bool]) -> None:
        """Publish gaps. Raises Unreachable."""
        self.carry([enclose(Gap(channel)) for channel in lost])

    def probe(self) -> None:
        """Publish a message that tells nothing. Raises Unreachable."""
        self.carry([enclose(Tally({}))])
