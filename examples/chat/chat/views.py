from django.db import transaction
from django.http import JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from django_eventstream import get_current_event_id, send_event

from .forms import HistoryForm, JoinForm, MessageForm, RoomForm
from .models import Message, Room

#: How many messages a history has at most; ``before`` asks for older ones.
PAGE_SIZE = 100


@require_safe
def join(request):
    """Ask for a nickname and a room."""
    if "user" not in request.GET:
        form = JoinForm(initial={"room": request.GET.get("room", "lobby")})
        return render(request, "chat/join.html", {"form": form})
    form = JoinForm(request.GET)
    if not form.is_valid():
        return render(request, "chat/join.html", {"form": form}, status=400)
    return redirect(room_url(**form.cleaned_data))


@require_safe
def show_room(request, room):
    if "user" not in request.GET:  # a link that somebody passed on
        return redirect(reverse("join", query={"room": room}))
    form = JoinForm({"room": room, "user": request.GET["user"]})
    if not form.is_valid():
        return render(request, "chat/join.html", {"form": form}, status=400)
    if form.cleaned_data["room"] != room:
        return redirect(room_url(**form.cleaned_data))
    page = {
        **form.cleaned_data,
        "messages-url": reverse("messages", args=[room]),
        "page-size": PAGE_SIZE,
        **history(room),
    }
    # For the stream's URL. The tag could ask for the position itself, but after the history.
    context = {"channel": channel_of(room), "last_event_id": page["last-event-id"]}
    return render(request, "chat/room.html", {"page": page, **context})


# Apps on phones have no page to get a CSRF token from. A forged request gains nothing here: who
# sends is told by a field of the form, not by a session.
@csrf_exempt
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def messages(request, room):
    """Answer with the history of a room, or send a message to it."""
    form = RoomForm({"room": room})
    if not form.is_valid():
        return bad_request(form)
    if request.method == "POST":
        form = MessageForm(request.POST)
        if not form.is_valid():
            return bad_request(form)
        message = send_message(room, **form.cleaned_data)
        return JsonResponse(message.as_data())
    form = HistoryForm(request.GET)
    if not form.is_valid():
        return bad_request(form)
    return JsonResponse(history(room, form.cleaned_data["before"]))


def history(room, before=None):
    # The position comes first. A message that is sent in between is then both in the history and
    # in the stream, where clients drop it by its id; the other way round it would be in neither.
    last_event_id = get_current_event_id([channel_of(room)])
    found = Message.objects.filter(room__name=room).order_by("-id")
    if before is not None:
        found = found.filter(id__lt=before)
    return {
        "messages": [message.as_data() for message in found[:PAGE_SIZE]],
        "last-event-id": last_event_id,
    }


def send_message(room, from_, text, key):
    # The message and its event are stored together or not at all: a message that anybody sees in
    # the history also reaches the streams, even if this process is killed after the commit.
    with transaction.atomic():
        # Locked, for messages of a room to get their ids in the order of their commits.
        # (SQLite, which has one writer at a time, needs and knows no such lock.)
        locked_room, _ = Room.objects.select_for_update().get_or_create(name=room)
        # A client that got no answer sends again, and cannot know whether that is needed.
        if key and (sent := Message.objects.filter(room=locked_room, key=key).first()):
            return sent
        message = Message.objects.create(room=locked_room, author=from_, text=text, key=key or None)
        send_event(channel_of(room), "message", message.as_data())
    return message


def channel_of(room):
    return f"room-{room}"


def room_url(room, user):
    return reverse("room", args=[room], query={"user": user})


def bad_request(form):
    errors = {name.rstrip("_"): " ".join(texts) for name, texts in form.errors.items()}
    return JsonResponse({"errors": errors}, status=400)
