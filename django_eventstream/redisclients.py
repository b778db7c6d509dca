"""Clients for Redis: a single server, Sentinel, Cluster; from one form of configuration.

A configuration is a URL (``redis://``, ``rediss://``, ``unix://``), or a dictionary of redis-py's
keyword arguments (``host``, ``port``, ``db``, ``password`` …) with, as needed:

- ``url``: for what the other keywords do not say;
- ``cluster``: True selects Redis Cluster. ``startup_nodes``, a list of (host, port), may stand in
  for ``host`` and ``port``;
- ``sentinels``: a list of (host, port), and ``service_name``, select the master that Sentinel
  names. ``sentinel_kwargs`` are keyword arguments for the connections to Sentinel itself.

Imported only where Redis is used.
"""

from __future__ import annotations

# What resolving a host imports when it is first done. A process that forks while another thread
# is importing it leaves its child with a half of it, which then resolves no host at all.
import encodings.idna  # noqa: F401
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

try:  # it is optional
    import redis
except ImportError as error:
    raise ImproperlyConfigured(
        "Redis is configured, but redis-py is not installed: pip install django-eventstream[redis]"
    ) from error
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.cluster
import redis.connection
import redis.retry
import redis.sentinel

Config = Mapping[str, Any] | str
Client = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster

#: What a configuration need not say. A server that hangs must not hang its clients for ever.
DEFAULTS: dict[str, Any] = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
    "socket_keepalive": True,
}
#: Until redis-py 6 a Cluster's own retries were not those of ``retry``.
NO_CLUSTER_RETRY = {"cluster_error_retry_attempts": 0} if redis.VERSION[0] < 6 else {}


def get_client(
    config: Config, *, setting: str = "EVENTSTREAM_REDIS", retry: bool = True, **overrides: Any
) -> Client:
    """Return a client, with a pool of connections of its own.

    ``overrides`` are keyword arguments that go before the configuration. Without ``retry`` a
    command is never sent a second time after an error. Connects to a Cluster at once, to
    everything else when used. Raises ImproperlyConfigured, naming the ``setting``.
    """
    client: Client = _make(redis, config, setting, retry, overrides)
    return client


def get_async_client(
    config: Config, *, setting: str = "EVENTSTREAM_REDIS", retry: bool = True, **overrides: Any
) -> AsyncClient:
    """Return an asynchronous client, for one event loop; see ``get_client``.

    Connects when used.
    """
    client: AsyncClient = _make(redis.asyncio, config, setting, retry, overrides)
    return client


async def aclose(client: AsyncClient) -> None:
    """Close a client, and what Sentinel's own client leaves open."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        await sentinel.aclose()


def read_config(config: Config, setting: str = "EVENTSTREAM_REDIS") -> dict[str, Any]:
    """Return a configuration as keyword arguments, with the defaults and without ``url``.

    Connects to nothing. Raises ImproperlyConfigured, naming the ``setting``.
    """
    if isinstance(config, str):
        config = {"url": config}
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise _unusable(setting, f"it is of type {type(config).__name__}")
    options = {name: value for name, value in config.items() if name != "url"}
    if "url" in config:
        options = _read_url(config["url"], setting) | options
    options = DEFAULTS | options
    cluster, sentinels = options.get("cluster"), options.get("sentinels")
    if cluster and sentinels:
        raise _unusable(setting, "'cluster' and 'sentinels' exclude each other")
    if (cluster or sentinels) and options.get("unix_socket_path"):
        raise _unusable(setting, "neither Cluster nor Sentinel can be reached by a Unix socket")
    if cluster:
        if options.pop("db", 0):
            raise _unusable(setting, "a Cluster has no other 'db' than 0")
        if "startup_nodes" in options:
            _check_pairs(options["startup_nodes"], "startup_nodes", setting)
        else:
            options.setdefault("host", "localhost")
    elif sentinels:
        _check_pairs(sentinels, "sentinels", setting)
        if not options.get("service_name"):
            raise _unusable(setting, "'sentinels' needs a 'service_name'")
    else:
        options.pop("cluster", None)
        options.pop("sentinels", None)
        try:
            redis.Redis(**options)  # which does not connect
        except (TypeError, ValueError) as error:
            raise _unusable(setting, str(error)) from error
    return options


def _read_url(url: Any, setting: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    except (AttributeError, TypeError, ValueError):
        # Errors quote the URL, in which there may be a password.
        raise _unusable(
            setting,
            "its URL cannot be read (it begins with redis://, rediss:// or unix://, and special "
            "characters in a password are percent-encoded)",
        ) from None
    if options.pop("connection_class", None) is not None:
        if "path" in options:
            options["unix_socket_path"] = options.pop("path")
        else:
            options["ssl"] = True
    return options


def _check_pairs(pairs: Any, name: str, setting: str) -> None:
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise _unusable(setting, f"{name!r} is no list of pairs (host, port)")


def _make(
    package: Any, config: Config, setting: str, retry: bool, overrides: dict[str, Any]
) -> Any:
    """Return a client of ``redis`` or ``redis.asyncio``."""
    options = read_config(config, setting) | overrides
    never = package.retry.Retry(redis.backoff.NoBackoff(), 0)
    cluster, sentinels = options.pop("cluster", False), options.pop("sentinels", None)
    if not retry:
        options["retry"] = never
    if cluster:
        if not retry:
            options |= NO_CLUSTER_RETRY
        node = package.cluster.ClusterNode
        if "startup_nodes" in options:
            options["startup_nodes"] = [node(*pair) for pair in options["startup_nodes"]]
        return package.RedisCluster(**options)
    if sentinels:
        service_name, kwargs = options.pop("service_name"), options.pop("sentinel_kwargs", None)
        if kwargs is None:
            kwargs = {name: options[name] for name in options if name.startswith("socket_")}
        # One that does not answer is not asked again: there are others.
        kwargs = {"retry": never, **kwargs}
        sentinel = package.sentinel.Sentinel(sentinels, sentinel_kwargs=kwargs, **options)
        return sentinel.master_for(service_name)
    return package.Redis(**options)


def _unusable(setting: str, reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"{setting} is no configuration for Redis: {reason}. Give a URL such as "
        "'redis://localhost:6379/0', or a dictionary such as "
        "{'host': 'localhost', 'port': 6379, 'db': 0}; see docs/settings.md."
    )
