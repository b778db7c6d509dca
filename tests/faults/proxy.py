"""A TCP proxy between the clients and the workers that live, which can reset connections."""

from __future__ import annotations

import asyncio
import random
import socket
import struct

#: So small that a client which does not read is soon felt by the worker.
BUFFER = 8192


class Proxy:
    """Passes each connection on to one of the workers, chosen at random."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._server: asyncio.Server | None = None
        #: The ports of the workers that take connections.
        self.workers: list[int] = []
        self.links: set[Link] = set()
        self.port = 0
        #: How many connections it has reset.
        self.resets = 0

    async def __aenter__(self) -> Proxy:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self.links):
            link.reset()

    def choose(self) -> int | None:
        """Return the port of a worker, None if there is none."""
        return self._source.choice(self.workers) if self.workers else None

    def reset(self, share: float, source: random.Random) -> int:
        """Reset a share of the connections, whatever they are doing; return how many."""
        links = sorted(self.links, key=lambda link: link.number)
        chosen = source.sample(links, round(share * len(links)))
        for link in chosen:
            link.reset()
        self.resets += len(chosen)
        return len(chosen)


class Link(asyncio.Protocol):
    """The client's side of a connection."""

    count = 0

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._worker: WorkerSide | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._request = b""
        self.transport: asyncio.Transport | None = None
        Link.count += 1
        self.number = Link.count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=BUFFER)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._proxy.links.add(self)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        try:
            port = self._proxy.choose()
            if port is None:
                raise ConnectionRefusedError
            await loop.sock_connect(connection, ("127.0.0.1", port))
            _, self._worker = await loop.create_connection(
                lambda: WorkerSide(self), sock=connection
            )
        except OSError:
            connection.close()
            self.reset()
            return
        assert self.transport is not None and self._worker.transport is not None
        if self.transport.is_closing():
            self._worker.transport.abort()
        elif self._request:
            self._worker.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._worker is None or self._worker.transport is None:
            self._request += data
        else:
            self._worker.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.links.discard(self)
        if self._worker is not None and self._worker.transport is not None:
            self._worker.transport.abort()

    def pause_writing(self) -> None:
        if self._worker is not None and self._worker.transport is not None:
            self._worker.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._worker is not None and self._worker.transport is not None:
            self._worker.transport.resume_reading()

    def reset(self) -> None:
        """Cut both sides off with RST."""
        for transport in (self.transport, self._worker and self._worker.transport):
            if transport is not None and not transport.is_closing():
                linger = struct.pack("ii", 1, 0)
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                transport.abort()


class WorkerSide(asyncio.Protocol):
    """The worker's side of a connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._link.transport is not None
        self._link.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._link.reset()
        elif self._link.transport is not None:
            self._link.transport.close()  # what the worker has written goes first
