"""What a project calls: sending events, reading them, and telling that permissions changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

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
from .storage import get_storage, stores_skipped
from .storage.base import StorageBase, read_page
from .transactions import in_transaction

logger = logging.getLogger("django_eventstream")


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
    UUID. ``async_publish=False`` waits until a proxy, if there is one, has taken the event.

    Inside a transaction the event is a part of it: sent right after the commit, and never if
    it is rolled back; the returned event's ``id`` is then None. ``on_commit=False`` sends an
    event of an unreliable channel at once all the same.

    Callable from any thread. Raises TypeError or ValueError, before anything is stored or
    sent, for a channel name or type over 255 characters, a reserved type, and data that
    cannot be encoded; and what the storage raises when it cannot append.
    """
    event = Event(
        check_channel(channel),
        check_event_type(event_type),
        json.dumps(data, cls=DjangoJSONEncoder, allow_nan=False)
        if json_encode
        else check_data(data),
        skip_user_ids=check_skip_user_ids(skip_user_ids),
    )
    wait = not async_publish
    storage = _storage_of(event.channel)
    if storage is None:
        if on_commit:
            _after_commit(_using(), _publish, event, wait)
        else:
            _publish(event, wait)
        return event
    try:
        if storage.is_transactional:
            event = _append(storage, event)
            if event.id is None:
                _number_after_commit(storage, event.channel, wait)
        elif in_transaction(storage.using):
            _after_commit(storage.using, _append_committed, storage, event, wait)
        else:
            event = _append(storage, event)
    except SynchronousOnlyOperation as error:
        raise SynchronousOnlyOperation(
            "send_event() was called on an event loop and would block it; "
            "await asend_event() instead."
        ) from error
    if event.id is not None:
        _publish_numbered(storage)  # before it, on the same channel
        _publish(event, wait)
    trim_log_now_and_then()
    return event


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


def _check_permission(user: Any, channel: str) -> None:
    try:
        check_permission(user, [channel])
    except EventPermissionError:
        publish(Revoked(user_id(user), channel))


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


def _append(storage: StorageBase, event: Event) -> Event:
    """Store an event, in a storage of version 5.3.4 without the users to be skipped."""
    if stores_skipped(storage):
        return storage.append_event(
            event.channel, event.type, event.data, skip_user_ids=event.skip_user_ids
        )
    stored = storage.append_event(event.channel, event.type, event.data)
    return Event(event.channel, event.type, event.data, stored.id, event.skip_user_ids)


def _publish(event: Event, wait: bool = False) -> None:
    publish(Published(event), wait=wait)


def _publish_numbered(storage: StorageBase) -> None:
    """Publish what others left pending and a call of the storage numbered.

    Its sender finds nothing to number any more, and so nothing to publish.
    """
    for event in storage.take_numbered():
        _publish(event)


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
    for event in storage.number_pending(channel):
        _publish(event, wait)


def _append_committed(storage: StorageBase, event: Event, wait: bool) -> None:
    _publish(_append(storage, event), wait)
