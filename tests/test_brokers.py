"""The contract of brokers, kept by each, on real servers."""

from __future__ import annotations

import pytest
from channels.layers import channel_layers
from django.test import TransactionTestCase, override_settings

from django_eventstream.brokers.channels import ChannelsBroker
from django_eventstream.brokers.database import DatabaseBroker
from django_eventstream.brokers.redis import RedisBroker
from django_eventstream.testing import BrokerContractTests
from tests.redis_server import redis_cluster, redis_sentinel, redis_server


class _OnServer(BrokerContractTests):
    """With a server for the whole class."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        context = cls.run_server()
        cls.server = context.__enter__()
        cls.addClassCleanup(context.__exit__, None, None, None)

    def setUp(self):
        settings = override_settings(**self.settings())
        settings.enable()
        self.addCleanup(settings.disable)
        super().setUp()

    def settings(self):
        return {"EVENTSTREAM_REDIS": self.server.connection}

    def make_broker(self):
        return RedisBroker()


_OnServer.__test__ = False


@pytest.mark.slow
class RedisBrokerTests(_OnServer):
    run_server = staticmethod(redis_server)

    def interrupt(self):
        self.server.restart()


@pytest.mark.slow
class RedisClusterTests(_OnServer):
    run_server = staticmethod(lambda: redis_cluster(3))

    def interrupt(self):
        for node in self.server.nodes:
            node.command("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.slow
class RedisSentinelTests(_OnServer):
    run_server = staticmethod(redis_sentinel)

    def interrupt(self):
        self.server.master().command("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.slow
class ChannelsBrokerTests(_OnServer):
    run_server = staticmethod(redis_server)

    def settings(self):
        config = {"hosts": [self.server.url], "capacity": 1000}
        layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config}
        return {"CHANNEL_LAYERS": {"default": layer}}

    def make_broker(self):
        channel_layers.backends.clear()  # in a process of its own it would have its own
        return ChannelsBroker()

    def interrupt(self):
        self.server.restart()


@pytest.mark.database
class DatabaseBrokerTests(BrokerContractTests, TransactionTestCase):
    def setUp(self):
        settings = override_settings(EVENTSTREAM_POLL_INTERVAL=0.05)
        settings.enable()
        self.addCleanup(settings.disable)
        super().setUp()

    def make_broker(self):
        return DatabaseBroker()
