import threading
import time

from django.http import HttpResponse

from django_eventstream import send_event

from . import statements


def send(request):
    query = request.GET
    channels = query.getlist("channel") or ["test"]
    arguments = (channels, int(query["count"]), float(query["rate"]), int(query["size"]))
    thread = threading.Thread(target=run, args=arguments)
    thread.start()
    if "wait" in query:
        thread.join()
    return HttpResponse(status=204)


def reads(request):
    """Tell how many statements have read the log, where the settings count them."""
    return HttpResponse(headers={"X-Reads": str(statements.count)})


def run(channels, count, rate, size):
    padding = "x" * size
    started = time.monotonic()
    for number in range(count):
        if rate:
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
        data = {"t": time.monotonic_ns(), "n": number, "padding": padding}
        send_event(channels[number % len(channels)], "message", data)
