"""Remote control for tests: what a project would do in its own views."""

import json
import os
import threading

from django.contrib.auth import get_user_model, login
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.template import Context, Engine
from django.views.decorators.csrf import csrf_exempt

import django_eventstream
from django_eventstream import (
    channel_permission_changed,
    get_current_event_id,
    hub,
    send_event,
)
from django_eventstream.models import Event

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Test</title>
<link rel="icon" href="data:,">
<script src="/static/django_eventstream/reconnecting-eventsource.js"></script>
</html>
"""

JOINED = """{% load eventstream %}
<main data-url="{% eventstream_url '/events/' channel=channel %}">
{{ between }}
{% for group in groups %}<p>{{ group.name }}</p>{% endfor %}
</main>
"""


@csrf_exempt
def send(request):
    """Send the events of the JSON body; ``transaction``: "commit" or "rollback"."""
    order = json.loads(request.body)
    end = order.get("transaction")
    ids = []
    if end is None:
        ids = [send_event(**event).id for event in order["events"]]
    else:
        with transaction.atomic():
            ids = [send_event(**event).id for event in order["events"]]
            transaction.set_rollback(end == "rollback")
    return JsonResponse({"ids": ids})


def burst(request, channel, count):
    """Send many events from several threads, of the size of the parameter ``size``."""
    per_thread = count // 4
    padding = "x" * int(request.GET.get("size", 0))

    def run(number):
        for index in range(per_thread):
            send_event(channel, "message", {"thread": number, "index": index, "padding": padding})

    threads = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return HttpResponse(status=204)


def log_in(request, name):
    """Log a user in, a new one if need be, as a member of the ``group`` parameters."""
    user, _ = get_user_model().objects.get_or_create(username=name)
    for group in request.GET.getlist("group"):
        user.groups.add(Group.objects.get_or_create(name=group)[0])
    login(request, user)
    return JsonResponse({"id": user.pk})


def forbid(request, name, group, channel):
    """Take a user out of a group, and say so."""
    user = get_user_model().objects.get(username=name)
    user.groups.remove(*Group.objects.filter(name=group))
    channel_permission_changed(user, channel)
    return HttpResponse(status=204)


def forbid_anonymous(request, channel):
    """Close the ``anonymous-`` channels to those who are not logged in."""
    Group.objects.get_or_create(name="closed")
    channel_permission_changed(None, channel)
    Group.objects.filter(name="closed").delete()
    return HttpResponse(status=204)


def position(request):
    """Answer with the Last-Event-ID of the present."""
    return HttpResponse(get_current_event_id(request.GET.getlist("channel")))


def forget(request, channel, event_id):
    """Remove a channel's events with lower ids, as trimming does."""
    Event.objects.filter(channel=channel, eid__lt=event_id).delete()
    return HttpResponse(status=204)


def threads(request):
    """Answer with the number of threads."""
    return JsonResponse({"threads": threading.active_count()})


def streams(request):
    """Answer with the number of streams in this process, and its id."""
    return JsonResponse({"streams": hub.count_streams(), "process": os.getpid()})


def page(request):
    """Answer with a page for a browser, which has the classic scripts and nothing to see."""
    return HttpResponse(PAGE)


def joined(request, channel):
    """Answer with the groups of a channel's name, and the URL of a stream of those that come.

    One is added between the two, at the worst moment.
    """
    groups = Group.objects.filter(name__startswith=channel).order_by("name")
    context = {
        "channel": channel,
        "groups": groups,
        "between": lambda: add_group(f"{channel}-between", channel),
    }
    engine = Engine(libraries={"eventstream": "django_eventstream.templatetags.eventstream"})
    return HttpResponse(engine.from_string(JOINED).render(Context(context)))


def add_group(name, channel):
    with transaction.atomic():
        Group.objects.create(name=name)
        send_event(channel, "added", name)
    return ""


def wrapped(request):
    """Call the view from another one."""
    return django_eventstream.views.events(request, channels=["wrapped"])
