"""How a client that does not read is got rid of.

An application can only stop sending. What then happens, from what the servers do:

- uvicorn and hypercorn close asyncio's transport, which waits for the client to read what is
  left; granian's connection does the same. So it stays, and holds up the end of the process.
- The servers know best what to do when a client goes: they wake whoever is blocked in sending,
  tell the application, free everything and log no error.

So the connection is broken, and the rest left to the server.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

#: Where the operating system lists this process's file descriptors.
DESCRIPTORS = "/dev/fd"
#: With this type Python looks at a socket without a change to it. With none, a project's
#: ``socket.setdefaulttimeout`` would make it non-blocking, also for whoever has it open besides.
#: (Not every system has the flag, and those that lack it have to do without.)
UNCHANGED = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)


class Connection(NamedTuple):
    """A request's connection: what of an ASGI scope finds it."""

    http_version: str = "1.1"
    #: Host and port of both ends, where they are known.
    client: Any = None
    server: Any = None

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> Connection:
        """Return the connection of a scope, which may be as empty as in tests."""
        return cls(scope.get("http_version", "1.1"), scope.get("client"), scope.get("server"))


def disconnect(task: asyncio.Task[Any], connection: Connection, *, is_last: bool = False) -> None:
    """Break the connection of a request; ``task`` is blocked in sending.

    ``is_last``: also if other requests share it, as from HTTP/2 on.
    """
    is_shared = connection.http_version >= "2" and not is_last
    if is_shared or not (_abort_transport(task) or _shut_socket(connection)):
        task.cancel()


def _abort_transport(task: asyncio.Task[Any]) -> bool:
    """Abort the asyncio transport that a task waits for; return False if there is none."""
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        # A method of the server's, of an object that has the transport.
        transport: Any = getattr(frame.f_locals.get("self"), "transport", None)
        if hasattr(transport, "abort"):
            transport.abort()
            return True
        awaited = awaited.cr_await
    return False


def _shut_socket(connection: Connection) -> bool:
    """Shut the socket of a request down; return False if it is not found.

    Proxies' headers may have changed ``client``, to what anybody wrote there. So the socket must
    have the server's port as well, lest it be the one of the project's database.
    """
    client, server = _address(connection.client), _address(connection.server)
    if client is None or server is None or not client[1]:
        return False  # by a proxy's word, or a Unix socket
    try:
        names = os.listdir(DESCRIPTORS)
    except OSError:  # there is none, or too many files are open to list them
        return False
    for name in names:
        try:
            found = socket.socket(type=UNCHANGED, fileno=int(name))
        except OSError:
            continue  # no socket
        try:
            if _address(found.getpeername()) != client:
                continue
            own = _address(found.getsockname())
            if own is not None and own[1] == server[1]:
                found.shutdown(socket.SHUT_RDWR)
                return True
        except OSError:
            continue  # not connected
        finally:
            found.detach()  # it is the server's
    return False


def _address(address: Any) -> tuple[str, int] | None:
    """Return host and port, if there are; an IPv4 address as such, also where IPv6 carries it."""
    try:
        host, port = address[:2]
        return (str(host).removeprefix("::ffff:"), int(port))
    except (TypeError, ValueError):  # None, a path, (path, None)
        return None
