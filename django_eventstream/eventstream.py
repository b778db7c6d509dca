"""What a project calls: sending events, reading them, and telling that permissions changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from .channelmanager import call, get_channelmanager
from .event import Event, check_channel, check_data, check_event_type, check_skip_user_ids
from .eventrequest import EventRequest, check_permission, current_user, user_id
from .eventresponse import EventResponse
from .exceptions import EventDoesNotExist, EventPermissionError
from .hub import publish, trim_log_now_and_then
from .lasteventid import format_last_event_id
from .messages import Published, Revoked
from .storage import get_storage, stores_many, stores_skipped
from .storage.base import StorageBase, read_page
from .transactions import in_transaction

logger = logging.getLogger("django_eventstream")

#: Channel, event type, data, and the ids of the users who must not get it.
EventTuple: TypeAlias = "tuple[str, str, Any] | tuple[str, str, Any, Iterable[Any] | None]"


def send_event(
    channel: str,
    event_type: str,
    data: Any,
    skip_user_ids: Iterable[Any] | None = None,
    async_publish: bool = True,
    json_encode: bool = True,
    *,
    on_commit: bool = True,
) -> Event:
    """Send an event to every stream that reads the channel, and return it.

    ``data`` is encoded with DjangoJSONEncoder; with ``json_encode=False`` it is a text that is
    sent as it is. ``skip_user_ids`` are users who must not get the event: ids as int, str or
    UUID. ``async_publish=False`` waits until a proxy, if there is one, has taken the event; not
    on an event loop, where ``asend_event`` waits.

    Inside a transaction the event is a part of it: sent right after the commit, and never if
    it is rolled back; the returned event's ``id`` is then None. ``on_commit=False`` sends an
    event of an unreliable channel at once all the same.

    Callable from any thread. Raises TypeError or ValueError, before anything is stored or
    sent, for a channel name or type over 255 characters, a reserved type, and data that
    cannot be encoded; and what the storage raises when it cannot append.
    """
    event = _make_event(channel, event_type, data, skip_user_ids, json_encode)
    return _send([event], wait=not async_publish, on_commit=on_commit)[0]


async def asend_event(
    channel: str,
    event_type: str,
    data: Any,
    skip_user_ids: Iterable[Any] | None = None,
    async_publish: bool = True,
    json_encode: bool = True,
    *,
    on_commit: bool = True,
) -> Event:
    """Send an event from asynchronous code; see ``send_event``."""
    return await sync_to_async(send_event)(
        channel,
        event_type,
        data,
        skip_user_ids,
        async_publish,
        json_encode,
        on_commit=on_commit,
    )


def send_events(
    events: Iterable[EventTuple],
    skip_user_ids: Iterable[Any] | None = None,
    async_publish: bool = True,
    json_encode: bool = True,
    *,
    on_commit: bool = True,
) -> list[Event]:
    """Send many events, and return them; it takes a fraction of what single ones take.

    Each is a tuple of channel, event type and data, which may be followed by the users who must
    not get this event, in place of ``skip_user_ids``. Everything else is as with ``send_event``,
    and holds for all of them.

    All are checked before any is stored, and either all are stored or none (but on a Redis
    Cluster, where that holds for each channel, and in storages without an ``append_events``
    of their own; if such a storage is in the project's database, they are sent in a transaction,
    and returned without ids). Their order is kept on each channel, and no other event comes
    between them on a reliable one; inside a transaction, those of another one that sends at the
    same time may.
    """
    if not isinstance(events, Iterable):
        raise TypeError(
            "send_events() takes a list of events, or another iterable that is not asynchronous, "
            f"not {type(events).__name__}."
        )
    skipped = None if skip_user_ids is None else check_skip_user_ids(skip_user_ids)
    made = []
    for one in events:
        if not isinstance(one, (tuple, list)) or not 3 <= len(one) <= 4:
            raise TypeError(
                "send_events() takes tuples (channel, event_type, data) or (channel, event_type, "
                f"data, skip_user_ids), not {one!r:.100}."
            )
        channel, event_type, data, *rest = one
        made.append(
            _make_event(channel, event_type, data, rest[0] if rest else skipped, json_encode)
        )
    return _send(made, wait=not async_publish, on_commit=on_commit)


async def asend_events(
    events: Iterable[EventTuple],
    skip_user_ids: Iterable[Any] | None = None,
    async_publish: bool = True,
    json_encode: bool = True,
    *,
    on_commit: bool = True,
) -> list[Event]:
    """Send many events from asynchronous code; see ``send_events``."""
    return await sync_to_async(send_events)(
        events, skip_user_ids, async_publish, json_encode, on_commit=on_commit
    )


def get_current_event_id(channels: Iterable[str]) -> str:
    """Return the Last-Event-ID of the present, for a page to start from.

    Ask for it before reading the page's own data: what comes in between is then sent to the
    page, which drops what it already shows. Channels that are not reliable have no place in
    it. Raises ValueError when there is no storage.
    """
    storage = get_storage()
    if storage is None:
        raise ValueError(
            "get_current_event_id() needs a storage: set EVENTSTREAM_STORAGE_CLASS, for example "
            "to 'django_eventstream.storage.DjangoModelStorage'."
        )
    if isinstance(channels, str):
        raise TypeError("get_current_event_id() takes a list of channel names, not one text.")
    names = [check_channel(channel) for channel in dict.fromkeys(channels)]
    manager = get_channelmanager()
    reliable = [name for name in names if call(manager.is_channel_reliable, name)]
    current_ids = storage.get_current_ids(reliable) if reliable else {}
    _publish_numbered(storage)
    return format_last_event_id({name: current_ids[name] for name in reliable})


def get_events(request: EventRequest, limit: int = 100, user: Any = None) -> EventResponse:
    """Return what follows the request's positions, at most about ``limit`` events in all.

    Where the log holds more, the request's position moves on, so that the next call reads it.
    ``user`` takes the place of the request's. Raises EventPermissionError when that user may
    not read one of the channels.
    """
    user = current_user(request.user if user is None else user)
    check_permission(user, request.channels)
    response = EventResponse(is_next=request.is_next, is_recover=request.is_recover, user=user)
    per_channel = max(1, limit // max(1, len(request.channels)))
    for channel in request.channels:
        response.channel_items[channel] = []
        storage = _storage_of(channel)
        if storage is None:
            continue
        position = request.channel_last_ids.get(channel)
        if position is None:
            response.channel_last_ids[channel] = storage.get_current_id(channel)
            continue
        position = int(position)  # version 5.3.4 had texts
        try:
            events = read_page(storage, channel, position, per_channel + 1)
        except EventDoesNotExist as error:
            response.channel_reset.add(channel)
            response.channel_last_ids[channel] = error.current_id
            continue
        response.channel_last_ids[channel] = position
        response.channel_items[channel] = events[:per_channel]
        if len(events) > per_channel:
            response.channel_more.add(channel)
            last_id = events[per_channel - 1].id
            assert last_id is not None
            request.channel_last_ids[channel] = last_id
        _publish_numbered(storage)
    return response


def channel_permission_changed(user: Any, channel: str) -> None:
    """Check whether a user may still read a channel, and end the user's streams if not.

    ``user`` None (or AnonymousUser) stands for all streams without a user. Inside a
    transaction this is done after the commit, and not at all after a rollback.
    """
    channel = check_channel(channel)
    _after_commit(_using(), _check_permission, current_user(user), channel)


# Made once: json.dumps() would make one for each event.
_encode = DjangoJSONEncoder(allow_nan=False).encode


def _make_event(
    channel: str, event_type: str, data: Any, skip_user_ids: Iterable[Any] | None, json_encode: bool
) -> Event:
    return Event(
        check_channel(channel),
        check_event_type(event_type),
        _encode(data) if json_encode else check_data(data),
        skip_user_ids=check_skip_user_ids(skip_user_ids),
    )


def _send(events: list[Event], *, wait: bool, on_commit: bool) -> list[Event]:
    """Store events and publish them, or have it done after the commit; return them."""
    storage = get_storage()
    reliable = _find_reliable(storage, events)
    logged = [event for event in events if event.channel in reliable]
    loose = [event for event in events if event.channel not in reliable]
    using = _using()
    if storage is not None and len(logged) > 1 and _appends_apart(storage, using):
        with transaction.atomic(using):
            return _send(events, wait=wait, on_commit=on_commit)
    if storage is not None and logged:
        try:
            if not storage.is_transactional and in_transaction(using):
                _after_commit(using, _append_committed, storage, logged, wait)
            else:
                stored = iter(logged := _append(storage, logged))
                events = [next(stored) if event.channel in reliable else event for event in events]
        except SynchronousOnlyOperation as error:
            raise SynchronousOnlyOperation(
                "send_event() was called on an event loop and would block it; "
                "await asend_event() instead, or asend_events() in place of send_events()."
            ) from error
        if storage.is_transactional:
            for channel in dict.fromkeys(event.channel for event in logged if event.id is None):
                _number_after_commit(storage, channel, wait)
    if loose and on_commit and in_transaction(using):
        _after_commit(using, _publish, loose, wait)
        loose = []
    at_once = [
        event
        for event in events
        if event.id is not None or (loose and event.channel not in reliable)
    ]
    if storage is not None and logged and logged[0].id is not None:
        _publish_numbered(storage)  # before them, on the same channels
    if at_once:
        _publish(at_once, wait)
    if logged:
        trim_log_now_and_then()
    return events


def _check_permission(user: Any, channel: str) -> None:
    try:
        check_permission(user, [channel])
    except EventPermissionError:
        publish(Revoked(user_id(user), channel))


def _find_reliable(storage: StorageBase | None, events: Iterable[Event]) -> set[str]:
    """Return the channels whose events are stored."""
    if storage is None:
        return set()
    manager = get_channelmanager()
    channels = {event.channel for event in events}
    return {channel for channel in channels if call(manager.is_channel_reliable, channel)}


def _storage_of(channel: str) -> StorageBase | None:
    """Return the storage if the channel is reliable."""
    storage = get_storage()
    if storage is not None and call(get_channelmanager().is_channel_reliable, channel):
        return storage
    return None


def _using() -> str:
    """Return the alias of the database whose transactions count."""
    storage = get_storage()
    return DEFAULT_DB_ALIAS if storage is None else storage.using


def _appends_apart(storage: StorageBase, using: str) -> bool:
    """Return whether many events would be as many transactions, some of which might fail."""
    return (
        storage.is_transactional
        and not in_transaction(using)
        and not connections[using].in_atomic_block  # a TestCase's
        and not stores_many(storage)
    )


def _append(storage: StorageBase, events: Sequence[Event]) -> list[Event]:
    """Store events, in a storage of version 5.3.4 without the users to be skipped."""
    if stores_skipped(storage):
        # One goes by append_event, so that projects may extend that in a storage of their own.
        if len(events) > 1 and stores_many(storage):
            return storage.append_events(events)
        return [
            storage.append_event(
                event.channel, event.type, event.data, skip_user_ids=event.skip_user_ids
            )
            for event in events
        ]
    return [
        replace(event, id=storage.append_event(event.channel, event.type, event.data).id)
        for event in events
    ]


def _publish(events: Sequence[Event], wait: bool = False) -> None:
    publish(*map(Published, events), wait=wait)


def _publish_numbered(storage: StorageBase) -> None:
    """Publish what others left pending and a call of the storage numbered.

    Its sender finds nothing to number any more, and so nothing to publish.
    """
    if events := storage.take_numbered():
        _publish(events)


# After a commit


def _after_commit(using: str, function: Callable[..., None], *args: Any) -> None:
    """Call a function after the commit of the transaction, if there is one, else now.

    With autocommit off Django does not know of commits; then it is called at once as well.
    """
    if in_transaction(using) and connections[using].in_atomic_block:
        transaction.on_commit(partial(_call_after_commit, function, *args), using=using)
    else:
        function(*args)


def _call_after_commit(function: Callable[..., None], *args: Any) -> None:
    """Call a function; the caller's work is done, so nothing is raised into it."""
    try:
        function(*args)
    except Exception:
        logger.exception("After a commit, left to the poll where one can mend it")


class _Numbering:
    """What runs after a commit: it numbers and publishes what is pending on its channels."""

    def __init__(self, storage: StorageBase) -> None:
        self.storage = storage
        #: In the order of sending, and whether senders wait for proxies.
        self.channels: dict[str, bool] = {}

    def __call__(self) -> None:
        for channel, wait in self.channels.items():
            _call_after_commit(_number_pending, self.storage, channel, wait)


def _number_after_commit(storage: StorageBase, channel: str, wait: bool) -> None:
    """Have the channel numbered after the commit; with autocommit off the poll does it."""
    connection: Any = connections[storage.using]
    if not connection.in_atomic_block:
        return
    # One serves a whole transaction. That of an enclosing block lives at least as long as what
    # is written now; it is among the first, so that this is no search.
    savepoints = set(connection.savepoint_ids)
    for of_block, hook, *_ in connection.run_on_commit:
        if isinstance(hook, _Numbering) and hook.storage is storage and of_block <= savepoints:
            break
    else:
        hook = _Numbering(storage)
        transaction.on_commit(hook, using=storage.using)
    hook.channels[channel] = wait or hook.channels.get(channel, False)


def _number_pending(storage: StorageBase, channel: str, wait: bool) -> None:
    if events := storage.number_pending(channel):
        _publish(events, wait)


def _append_committed(storage: StorageBase, events: Sequence[Event], wait: bool) -> None:
    _publish(_append(storage, events), wait)
