"""The event log in Redis.

A channel has a counter, a key that never expires: as long as a client may come back with a
position, numbers must not be given a second time. Each event is a key of its own, which Redis
removes when its time has come. Names and contents are version 5.3.4's, whose processes may run on
beside this one.

    event_counter:CHANNEL     the id of the channel's latest event
    event:CHANNEL:ID          {"type": …, "data": …, "skip_user_ids": […]}

On a Cluster, CHANNEL is percent-encoded and in braces, so that a channel's keys share a slot.

What Redis removed, for whatever reason, is a hole in the ids; a position before it does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured

from ..conf import settings
from ..event import Event
from ..exceptions import EventDoesNotExist
from ..redisclients import Client, get_client, read_config
from .base import StorageBase

# isort: split
import redis  # behind redisclients, which says what to do where it is missing

SETTING = "EVENTSTREAM_STORAGE_CONNECTION"

#: Version 5.3.4 takes a number first and stores the event then: for so many seconds, a hole behind
#: an event that is there may be one that is about to be filled.
IN_FLIGHT_PATIENCE = 0.02

#: Of how many channels a process remembers the latest id.
REMEMBERED = 10_000


class Script:
    """A script, run by its digest, so that its text is sent to each server once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(
        self, client: Client, keys: Sequence[bytes], arguments: Sequence[bytes | int | str]
    ) -> Any:
        """Run the script."""
        # redis-py's annotations know neither bytes nor numbers as arguments.
        values: Any = [*keys, *arguments]
        try:
            return client.evalsha(self._digest, len(keys), *values)
        except redis.exceptions.NoScriptError:  # it did not run
            return client.eval(self._text, len(keys), *values)


# The keys of events are not among KEYS, for their names have the numbers in them; they are in the
# same slots as the counters. For each of these the arguments have the prefix of its events, the
# latest number that the sender knows, how many events there are, and the events.
# Lua's numbers are exact up to 2^53, but written with 14 digits unless one asks for more.
APPEND = Script("""\
local milliseconds, limit = ARGV[1], tonumber(ARGV[2])
local at = 3
local firsts = {}
for number, counter in ipairs(KEYS) do
    local prefix, known, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local function key(id) return prefix .. string.format('%.0f', id) end

    local last = redis.call('INCRBY', counter, count)
    local first = last - count + 1
    -- Less than the sender knows: the counter was evicted, or its latest values were lost by a
    -- restart or a fail-over. Those numbers are taken. (Without the counter and the event: all
    -- was removed.)
    if known >= first and (first > 1 or redis.call('EXISTS', key(known)) == 1) then
        first, last = known + 1, known + count
        redis.call('SET', counter, string.format('%.0f', last))
    end
    for id = first, last do
        redis.call('SET', key(id), ARGV[at + 3 + id - first], 'PX', milliseconds)
    end
    at = at + 3 + count
    if limit > 0 then
        -- As many are too many as there are new ones, or more where the limit was lowered; of
        -- very many the rest expires.
        for old = last - limit, math.max(1, last - limit - count - 9998), -1 do
            if redis.call('DEL', key(old)) == 0 then break end
        end
    end
    firsts[number] = first
end
return firsts
""")

READ = Script("""\
local prefix, last, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local function key(id) return prefix .. string.format('%.0f', id) end

local current = tonumber(redis.call('GET', KEYS[1]) or 0)
local events = {}
for id = last + 1, math.min(last + limit, current) do
    local event = redis.call('GET', key(id))
    if not event then break end
    events[#events + 1] = event
end
local is_hole = #events == 0 and last < current and redis.call('EXISTS', key(last)) == 1
return {current, is_hole and 1 or 0, events}
""")


class RedisStorage(StorageBase):
    """The log in Redis 6 or newer, also on Sentinel and Cluster.

    ``EVENTSTREAM_STORAGE_CONNECTION`` says where; ``redisclients`` has its forms. Events are kept
    as safe as Redis is configured to keep them. Those of a transaction are appended right after
    the commit; a process that is killed in between loses them.
    """

    broker = "redis"

    def __init__(self) -> None:
        config = settings.storage_connection
        if not config:
            raise ImproperlyConfigured(
                f"{SETTING} is not set, and RedisStorage needs it: set it to a URL such as "
                "'redis://localhost:6379/0'."
            )
        self._config = read_config(config, SETTING)
        self._is_cluster = bool(self._config.get("cluster"))
        self._client: tuple[int, Client] | None = None
        # The latest id that was given to this process, by channel.
        self._known: dict[str, int] = {}

    def append_event(
        self,
        channel: str,
        event_type: str,
        data: str,
        *,
        skip_user_ids: Collection[str] = (),
    ) -> Event:
        """Store an event, in one atomic step.

        Raises redis-py's errors. After a connection was lost, or did not answer in time, the event
        may be stored all the same; it is never sent a second time by itself.
        """
        (event,) = self.append_events(
            [Event(channel, event_type, data, None, frozenset(skip_user_ids))]
        )
        return event

    def append_events(self, events: Sequence[Event]) -> list[Event]:
        """Store events in one atomic step; on a Cluster, in one for each channel.

        Raises as ``append_event`` does.
        """
        by_channel: dict[str, list[bytes]] = {}
        for event in events:
            by_channel.setdefault(event.channel, []).append(_content(event))
        next_ids: dict[str, int] = {}
        for channels in [[name] for name in by_channel] if self._is_cluster else [[*by_channel]]:
            arguments: list[bytes | int | str] = [
                max(1, int(settings.retention * 1000)),
                settings.max_events_per_channel or 0,
            ]
            for channel in channels:
                contents = by_channel[channel]
                known = self._known.get(channel, 0)
                arguments += [self._prefix(channel), known, len(contents), *contents]
            counters = [self._counter(channel) for channel in channels]
            firsts = APPEND.run(self._connect(), counters, arguments)
            for channel, first in zip(channels, firsts, strict=True):
                next_ids[channel] = first
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[channel] = first + len(by_channel[channel]) - 1
        stored = []
        for event in events:
            event_id = next_ids[event.channel]
            next_ids[event.channel] = event_id + 1
            stored.append(replace(event, id=event_id))
        return stored

    def get_events(self, channel: str, last_id: int, limit: int = 100) -> list[Event]:
        """Return what follows ``last_id``, without holes, in one round trip; see StorageBase."""
        current_id, is_hole, texts = self._read_page(channel, last_id, limit)
        if is_hole:
            time.sleep(IN_FLIGHT_PATIENCE)
            current_id, _, texts = self._read_page(channel, last_id, limit)
        if not texts and last_id != current_id:
            raise EventDoesNotExist(f"Channel {channel!r} holds no event {last_id + 1}", current_id)
        return [_event(channel, event_id, text) for event_id, text in enumerate(texts, last_id + 1)]

    def get_current_id(self, channel: str) -> int:
        """Return the id of the channel's latest event, 0 if there is no counter."""
        return self.get_current_ids([channel])[channel]

    def get_current_ids(self, channels: Collection[str]) -> dict[str, int]:
        """Return the id of each channel's latest event, in one round trip (to each node)."""
        names = list(channels)
        if not names:
            return {}
        keys = [self._counter(name) for name in names]
        if self._is_cluster:
            values = self._read(lambda client: client.mget_nonatomic(keys))
        else:
            values = self._read(lambda client: client.mget(keys))
        return {name: int(value or 0) for name, value in zip(names, values, strict=True)}

    def raise_counters(self, by: int) -> int:
        """Let every channel go on ``by`` numbers further; return how many channels."""
        client = self._connect()
        # A scan may find a key more than once.
        counters = set(client.scan_iter(match=b"event_counter:*", count=1000))
        for counter in counters:
            client.incrby(counter, by)
        return len(counters)

    # Inside

    def _connect(self) -> Client:
        # A forked child must use none of its parent's connections; nor may it wait for a lock
        # that was held in the parent. Two threads that both make a client do no harm.
        process_id = os.getpid()
        if self._client is None or self._client[0] != process_id:
            client = get_client(self._config, setting=SETTING, retry=False, decode_responses=False)
            self._client = process_id, client
        return self._client[1]

    def _read(self, function: Callable[[Any], Any]) -> Any:
        """Call a function with the client, again if the connection was lost meanwhile."""
        try:
            return function(self._connect())
        except redis.ConnectionError:
            return function(self._connect())

    def _read_page(self, channel: str, last_id: int, limit: int) -> tuple[int, int, list[bytes]]:
        counter, prefix = self._counter(channel), self._prefix(channel)
        current_id, is_hole, texts = self._read(
            lambda client: READ.run(client, [counter], [prefix, last_id, limit])
        )
        return current_id, is_hole, texts

    def _counter(self, channel: str) -> bytes:
        return f"event_counter:{self._tag(channel)}".encode()

    def _prefix(self, channel: str) -> bytes:
        return f"event:{self._tag(channel)}:".encode()

    def _tag(self, channel: str) -> str:
        return f"{{{quote(channel, safe='')}}}" if self._is_cluster else channel


def _content(event: Event) -> bytes:
    content: dict[str, Any] = {"type": event.type, "data": event.data}
    if event.skip_user_ids:
        content["skip_user_ids"] = sorted(event.skip_user_ids)
    return json.dumps(content, ensure_ascii=False).encode()


def _event(channel: str, event_id: int, text: bytes) -> Event:
    content = json.loads(text)
    data = content["data"]
    if not isinstance(data, str):  # version 5.3.4 with json_encode=False, written as it wrote it
        data = str(data)
    skipped = frozenset(content.get("skip_user_ids", ()))
    return Event(channel, content["type"], data, event_id, skipped)
