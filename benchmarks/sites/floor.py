"""The floor: an ASGI application that writes one prebuilt bytes object to each stream."""

import asyncio
import os
import time
from urllib.parse import parse_qsl

KEEP_ALIVE = b"event: keep-alive\ndata:\n\n"
HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]

waiting: set[asyncio.Future[bytes]] = set()
sending: set[asyncio.Task[None]] = set()
clock: list[asyncio.Task[None]] = []


def wake(block: bytes) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(block)
    waiting.clear()


async def run(count: int, rate: float, size: int) -> None:
    """Send events; unpaced, as what is pending at each pass of the loop in one piece."""
    padding = "x" * size
    started = time.monotonic()
    for number in range(count):
        if rate:
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        stamp = time.monotonic_ns()
        data = f'{{"t": {stamp}, "n": {number}, "padding": "{padding}"}}'
        block = f"event: message\nid: test:{number}\ndata: {data}\n\n".encode()
        wake(block)
        if not rate:
            while len(waiting) < streams:
                await asyncio.sleep(0)


async def keep_alive() -> None:
    while True:
        await asyncio.sleep(float(os.environ.get("BENCHMARK_KEEP_ALIVE", 20)))
        wake(KEEP_ALIVE)


streams = 0


async def application(scope, receive, send):
    global streams
    if scope["type"] != "http":
        return
    if scope["path"] == "/send/":
        query = dict(parse_qsl(scope["query_string"].decode()))
        work = run(int(query["count"]), float(query["rate"]), int(query["size"]))
        task = asyncio.ensure_future(work)
        sending.add(task)
        task.add_done_callback(sending.discard)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return
    loop = asyncio.get_running_loop()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    if not clock:
        clock.append(asyncio.ensure_future(keep_alive()))
    opening = b"event: stream-open\ndata:\n\n"
    await send({"type": "http.response.body", "body": opening, "more_body": True})
    streams += 1
    try:
        while True:
            future = loop.create_future()
            waiting.add(future)
            block = await future
            await send({"type": "http.response.body", "body": block, "more_body": True})
    finally:
        streams -= 1
