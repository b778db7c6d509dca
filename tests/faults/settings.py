"""The settings of the workers and senders: those of the tests, and what the harness wants."""

from tests.settings import *  # noqa: F403
from tests.settings import LOGGING

# Small, so that streams outrun their feeds, and fall behind them.
EVENTSTREAM_BUFFER_SIZE = 30
EVENTSTREAM_BURST_SIZE = 200
EVENTSTREAM_PAGE_SIZE = 50
EVENTSTREAM_RETRY_DELAY = 1
EVENTSTREAM_KEEP_ALIVE_INTERVAL = 5
EVENTSTREAM_RETENTION = 24 * 3600
LOGGING["formatters"] = {"timed": {"()": "tests.faults.inside.Formatter"}}
LOGGING["handlers"]["console"]["formatter"] = "timed"
