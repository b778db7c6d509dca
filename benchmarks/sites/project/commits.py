"""A storage that notes how long after their stamps events are committed."""

import json
import time

from django.http import JsonResponse

from django_eventstream.storage import DjangoModelStorage

delays: list[float] = []


class Storage(DjangoModelStorage):
    def append_event(self, *args, **kwargs):
        event = super().append_event(*args, **kwargs)
        delays.append((time.monotonic_ns() - json.loads(event.data)["t"]) / 1e9)
        return event


def tell(request):
    return JsonResponse(delays, safe=False)
