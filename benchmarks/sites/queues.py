"""sse-starlette, used as its README shows: a queue for each stream."""

import asyncio
import threading

from paced import paced
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

queues: set[asyncio.Queue[dict[str, str]]] = set()
loops: list[asyncio.AbstractEventLoop] = []


async def events(request):
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    queues.add(queue)

    async def read():
        yield {"event": "stream-open", "data": ""}
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)

    return EventSourceResponse(read())


def put(event):
    for queue in queues:
        queue.put_nowait(event)


def run(loop, count, rate, size):
    for number, data in paced(count, rate, size):
        event = {"event": "message", "id": f"test:{number}", "data": data}
        loop.call_soon_threadsafe(put, event)


async def send(request):
    query = request.query_params
    arguments = (int(query["count"]), float(query["rate"]), int(query["size"]))
    threading.Thread(target=run, args=(asyncio.get_running_loop(), *arguments)).start()
    return Response(status_code=204)


application = Starlette(routes=[Route("/events/", events), Route("/send/", send)])
