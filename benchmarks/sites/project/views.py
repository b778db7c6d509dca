import asyncio
import threading
import time

from django.contrib.auth import get_user_model, login
from django.http import HttpResponse, StreamingHttpResponse

from django_eventstream import send_event


async def bare(request):
    """A stream of Django's own, without anything: what the package can be compared with."""

    async def body():
        yield b"event: stream-open\ndata:\n\n"
        await asyncio.get_running_loop().create_future()

    return StreamingHttpResponse(body(), content_type="text/event-stream")


def send(request):
    query = request.GET
    if "keep_alive" not in query:
        channels = query.getlist("channel") or ["test"]
        arguments = (channels, int(query["count"]), float(query["rate"]), int(query["size"]))
        threading.Thread(target=run, args=arguments).start()
    return HttpResponse(status=204)


def run(channels, count, rate, size):
    padding = "x" * size
    started = time.monotonic()
    for number in range(count):
        if rate:
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
        data = {"t": time.monotonic_ns(), "n": number, "padding": padding}
        send_event(channels[number % len(channels)], "message", data)


def log_in(request):
    user, _ = get_user_model().objects.get_or_create(username="reader")
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse(status=204)
