"""The package's settings: read when used, with their defaults, in one place.

Each is named ``EVENTSTREAM_`` and the property's name in capitals. ``checks.py`` validates
them, ``docs/settings.md`` describes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured


class Settings:
    """The settings as the project has them now."""

    # What the project plugs in

    @property
    def storage_class(self) -> str | None:
        """Dotted path of the storage; None: no channel is reliable."""
        path: str | None = self._get("STORAGE_CLASS", None)
        return path or None

    @property
    def channelmanager_class(self) -> str:
        """Dotted path of the channel manager."""
        default = "django_eventstream.channelmanager.DefaultChannelManager"
        return self._get("CHANNELMANAGER_CLASS", default) or default

    @property
    def broker(self) -> list[str] | None:
        """Short names or dotted paths of the brokers; None: they follow from other settings."""
        value = self._get("BROKER", None)
        if not value:
            return None
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise ImproperlyConfigured(
                f"EVENTSTREAM_BROKER is {value!r}: give the name of a broker, or a list of names."
            )
        return list(dict.fromkeys(names))

    @property
    def redis(self) -> Any:
        """How the Redis broker connects: a URL, or keyword arguments of redis-py's client."""
        return self._get("REDIS", None) or None

    @property
    def storage_connection(self) -> Any:
        """The same for RedisStorage."""
        return self._get("STORAGE_CONNECTION", None) or None

    # Streams

    @property
    def channel_limit(self) -> int:
        """How many channels a stream may read."""
        return self._int("CHANNEL_LIMIT", 10)

    @property
    def padding(self) -> int:
        """Size of the comment that opens a stream, in bytes; 0: none."""
        return self._int("PADDING", 2048)

    @property
    def keep_alive_interval(self) -> float:
        """After how many idle seconds a stream gets a ``keep-alive``."""
        return self._float("KEEP_ALIVE_INTERVAL", 20)

    @property
    def retry_delay(self) -> float:
        """Seconds, on average, before a client whose stream was ended comes back."""
        return self._float("RETRY_DELAY", 3)

    @property
    def send_timeout(self) -> float:
        """After how many seconds a client that does not read is cut off."""
        return self._float("SEND_TIMEOUT", 60)

    @property
    def max_stream_age(self) -> float | None:
        """After how many seconds, at most, a stream ends, for its client to come back."""
        if self._get("MAX_STREAM_AGE", None) is None:
            return None
        return self._float("MAX_STREAM_AGE", None)

    @property
    def clean_shutdown(self) -> bool:
        """Whether streams are ended before the server is told of SIGTERM and SIGINT."""
        return bool(self._get("CLEAN_SHUTDOWN", True))

    # The log

    @property
    def retention(self) -> float:
        """For how many seconds the log keeps events."""
        return self._float("RETENTION", 24 * 3600)

    @property
    def max_events_per_channel(self) -> int | None:
        """How many events the log keeps on each channel; None: no limit."""
        if self._get("MAX_EVENTS_PER_CHANNEL", None) is None:
            return None
        return self._int("MAX_EVENTS_PER_CHANNEL", None)

    @property
    def poll_interval(self) -> float:
        """Every how many seconds a process compares its feeds with the log."""
        return self._float("POLL_INTERVAL", 1)

    @property
    def page_size(self) -> int:
        """How many events are read from the log at a time."""
        return self._int("PAGE_SIZE", 500)

    @property
    def read_timeout(self) -> float:
        """For how many seconds an open stream keeps trying to read the log."""
        return self._float("READ_TIMEOUT", 300)

    @property
    def database_threads(self) -> int:
        """How many threads, each with a database connection, serve all streams of a process."""
        return self._int("DATABASE_THREADS", 4)

    # The feeds

    @property
    def buffer_size(self) -> int:
        """How many recent events a process keeps of each reliable channel it streams."""
        return self._int("BUFFER_SIZE", 1000)

    @property
    def burst_size(self) -> int:
        """How many events of a channel a process holds at most for streams that lag."""
        return self._int("BURST_SIZE", 10_000)

    # GRIP

    @property
    def grip_interval(self) -> float:
        """For at least how many seconds a proxy holds a stream without asking."""
        return self._float("GRIP_INTERVAL", 300)

    # Cross-origin requests

    @property
    def allow_origins(self) -> list[str] | None:
        """Hosts or origins that may read streams; None: those of ``ALLOWED_HOSTS``."""
        value = self._get("ALLOW_ORIGIN", None) or self._get("ALLOW_ORIGINS", None)
        if not value:
            return None
        origins = [value] if isinstance(value, str) else value
        if not isinstance(origins, Iterable) or not all(isinstance(o, str) for o in origins):
            raise ImproperlyConfigured(f"EVENTSTREAM_ALLOW_ORIGINS is {value!r}: no list of texts.")
        return list(origins)

    @property
    def allow_credentials(self) -> bool:
        """Whether cross-origin requests may carry cookies."""
        return bool(self._get("ALLOW_CREDENTIALS", False))

    @property
    def allow_headers(self) -> list[str]:
        """Request headers that cross-origin requests may carry besides the package's own."""
        value = self._get("ALLOW_HEADERS", None) or []
        if isinstance(value, str):
            value = value.split(",")
        return [header.strip() for header in value]

    def _int(self, name: str, default: Any) -> int:
        return int(self._float(name, default))

    def _float(self, name: str, default: Any) -> float:
        value = self._get(name, default)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"EVENTSTREAM_{name} is {value!r}: no number.") from error

    @staticmethod
    def _get(name: str, default: Any) -> Any:
        return getattr(django_settings, f"EVENTSTREAM_{name}", default)


settings = Settings()
