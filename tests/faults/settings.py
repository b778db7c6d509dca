"""The settings of the workers and senders: those of the tests, and what the harness wants."""

import os

from tests.settings import *  # noqa: F403

_STORAGES = {
    "database": "tests.faults.storages.MortalStorage",
    "redis": "django_eventstream.storage.RedisStorage",
}
EVENTSTREAM_STORAGE_CLASS = _STORAGES[os.environ["EVENTSTREAM_FAULTS_STORAGE"]]
# Small, so that streams outrun their feeds, and fall behind them.
EVENTSTREAM_BUFFER_SIZE = 30
EVENTSTREAM_BURST_SIZE = 200
EVENTSTREAM_PAGE_SIZE = 50
EVENTSTREAM_RETRY_DELAY = 1
EVENTSTREAM_KEEP_ALIVE_INTERVAL = 5
EVENTSTREAM_RETENTION = 24 * 3600
