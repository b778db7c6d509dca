"""What one would write without a package: an asynchronous view that streams a shared list."""

import asyncio
import threading

from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse, StreamingHttpResponse
from paced import paced

blocks: list[bytes] = []
waiting: set[asyncio.Future[None]] = set()
loops: list[asyncio.AbstractEventLoop] = []


async def stream(request):
    """With a session, the user is loaded."""
    if request.COOKIES:
        await request.auser()
    loop = asyncio.get_running_loop()
    loops[:] = [loop]
    place = len(blocks)

    async def body():
        nonlocal place
        yield b"event: stream-open\ndata:\n\n"
        while True:
            if place == len(blocks):
                future = loop.create_future()
                waiting.add(future)
                await future
            block = b"".join(blocks[place:])
            place = len(blocks)
            yield block

    return StreamingHttpResponse(body(), content_type="text/event-stream")


def log_in(request):
    login(request, User.objects.get_or_create(username="reader")[0])
    return HttpResponse(status=204)


def publish(block):
    blocks.append(block)
    for future in waiting:
        if not future.done():  # the client may have gone
            future.set_result(None)
    waiting.clear()


def send(request):
    query = request.GET
    arguments = (int(query["count"]), float(query["rate"]), int(query["size"]))
    threading.Thread(target=run, args=arguments).start()
    return HttpResponse(status=204)


def run(count, rate, size):
    for number, data in paced(count, rate, size):
        block = f"event: message\nid: test:{number}\ndata: {data}\n\n".encode()
        loops[0].call_soon_threadsafe(publish, block)
