"""Clients for Redis are made from every form of configuration."""

import importlib
import subprocess
import sys
import traceback

import pytest
import redis
import redis.asyncio
from django.core.exceptions import ImproperlyConfigured

from django_eventstream import redisclients
from django_eventstream.brokers import enclose
from django_eventstream.brokers.redis import RedisBroker
from django_eventstream.messages import Revoked
from django_eventstream.redisclients import get_async_client, get_client, read_config
from tests.processes import free_port


def kwargs_of(config, **overrides):
    client = get_client(config, **overrides)
    return client.connection_pool.connection_kwargs


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"host": "localhost", "port": 6379, "db": 0}),
        ({"host": "h", "port": 1, "db": 2}, {"host": "h", "port": 1, "db": 2}),
        ("redis://u:p%40@h:1/2", {"host": "h", "port": 1, "db": 2, "username": "u"}),
        ("redis://u:p%40@h:1/2", {"password": "p@"}),
        ("redis://h?socket_timeout=0.5", {"socket_timeout": 0.5}),
        ({"url": "redis://h:1/2", "db": 3}, {"host": "h", "port": 1, "db": 3}),
        ("unix:///run/redis.sock?db=1", {"path": "/run/redis.sock", "db": 1}),
        ({"cluster": False, "sentinels": None, "host": "h"}, {"host": "h"}),
    ],
)
@pytest.mark.parametrize("get", [get_client, get_async_client])
def test_configuration_becomes_a_client(get, config, expected):
    client = get(config)
    assert isinstance(client, redis.Redis if get is get_client else redis.asyncio.Redis)
    options = client.connection_pool.connection_kwargs
    assert {name: options[name] for name in expected} == expected


def test_rediss_is_encrypted():
    pool = get_client("rediss://h").connection_pool
    assert issubclass(pool.connection_class, redis.SSLConnection)


def test_server_that_hangs_is_not_waited_for_for_ever():
    options = kwargs_of({})
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 5
    assert kwargs_of({"socket_timeout": 1})["socket_timeout"] == 1


def test_overrides_go_before_the_configuration():
    url = "redis://h?socket_timeout=1"
    assert kwargs_of(url, socket_timeout=None)["socket_timeout"] is None
    config = {"host": "h", "decode_responses": True}
    assert kwargs_of(config, decode_responses=False)["decode_responses"] is False
    assert config == {"host": "h", "decode_responses": True}


def test_retries_can_be_turned_off():
    client = get_client({}, retry=False)
    assert client.connection_pool.connection_kwargs["retry"]._retries == 0


def test_sentinels_select_the_master_that_they_name():
    config = {
        "sentinels": [("127.0.0.1", 1), ["127.0.0.1", 2]],
        "service_name": "main",
        "password": "p",
        "db": 1,
    }
    for get in (get_client, get_async_client):
        client = get(config)
        pool = client.connection_pool
        assert pool.service_name == "main"
        assert pool.connection_kwargs["password"] == "p"
        sentinel = pool.sentinel_manager.sentinels[1].connection_pool.connection_kwargs
        assert (sentinel["port"], sentinel["socket_timeout"]) == (2, 5)
        assert sentinel.get("password") is None
    own = get_client({**config, "sentinel_kwargs": {"password": "s"}})
    (first, _) = own.connection_pool.sentinel_manager.sentinels
    assert first.connection_pool.connection_kwargs["password"] == "s"


@pytest.mark.parametrize("place", [{"host": "h", "port": 1}, {"startup_nodes": [("h", 1)]}])
async def test_cluster_starts_from_one_of_its_nodes(place):
    client = get_async_client({"cluster": True, "db": 0, **place})
    assert isinstance(client, redis.asyncio.RedisCluster)
    (node,) = client.nodes_manager.startup_nodes.values()
    assert (node.host, node.port) == ("h", 1)


def test_cluster_is_on_this_host_by_default():
    assert read_config({"cluster": True})["host"] == "localhost"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (7, "of type int"),
        ({1: 2}, "of type dict"),
        ({"hots": "x"}, "hots"),
        ("localhost:6379", "redis://"),
        ("redis://h:port", "URL cannot be read"),
        ({"url": None}, "URL cannot be read"),
        ({"cluster": True, "db": 1}, "'db'"),
        ({"cluster": True, "startup_nodes": ["h:1"]}, "'startup_nodes'"),
        ({"cluster": True, "sentinels": [("h", 1)]}, "exclude each other"),
        ({"cluster": True, "url": "unix:///x"}, "Unix socket"),
        ({"sentinels": [("h", 1)]}, "'service_name'"),
        ({"sentinels": "h:1", "service_name": "s"}, "'sentinels'"),
    ],
)
def test_unusable_configuration_names_the_setting_and_the_remedy(config, reason):
    with pytest.raises(ImproperlyConfigured, match=reason) as caught:
        get_client(config, setting="EVENTSTREAM_STORAGE_CONNECTION")
    assert str(caught.value).startswith("EVENTSTREAM_STORAGE_CONNECTION ")
    assert "'redis://localhost:6379/0'" in str(caught.value)


@pytest.mark.parametrize("url", ["redys://:secret@localhost", "redis://:secret/word@localhost"])
def test_password_is_not_shown(url):
    with pytest.raises(ImproperlyConfigured) as caught:
        get_client(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_missing_package_names_the_remedy(monkeypatch):
    monkeypatch.delitem(sys.modules, redisclients.__name__)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install django-eventstream\[redis\]"):
        importlib.import_module(redisclients.__name__)


def test_resolving_a_host_imports_nothing_more():
    """A child that was forked in the middle of that import resolved no host."""
    code = "import sys, django_eventstream.redisclients; assert 'encodings.idna' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_messages_wait_for_a_cluster_that_is_down(settings):
    settings.EVENTSTREAM_REDIS = {"cluster": True, "host": "127.0.0.1", "port": free_port()}
    broker = RedisBroker()
    broker.publish(enclose(Revoked("1", "a")), wait=True)
    assert broker.outboxes[0]._is_busy()
    broker.close()
