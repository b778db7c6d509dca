"""The example chat, served by daphne both ways, as an app on a phone and a browser use it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import quote, urlencode

import pytest

from tests.examples import Example
from tests.processes import Site

pytestmark = pytest.mark.slow

#: A plain Django application, and the same through Channels.
WAYS = ["chat_project.asgi:application", "chat_project.asgi_channels:application"]


class Chat(Site):
    """The chat, served by a real process."""

    def say(self, room: str, author: str, text: str) -> dict:
        status, content = self.post(room, {"from": author, "text": text})
        assert status == 200, content
        return content

    def post(self, room: str, fields: dict[str, str]) -> tuple[int, dict]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url = f"/rooms/{quote(room)}/messages/"
        status, _, content = self.request("POST", url, urlencode(fields), headers)
        return status, json.loads(content)

    def history(self, room: str, query: str = "") -> dict:
        status, _, content = self.request("GET", f"/rooms/{quote(room)}/messages/{query}")
        assert status == 200, content
        return json.loads(content)

    def stream(self, room: str, last_event_id: str = ""):
        return self.open(f"/events/?channel={quote(f'room-{room}')}", last_event_id)

    def page(self, path: str) -> tuple[str, dict]:
        """Return a room's HTML, and the data in it."""
        status, _, content = self.request("GET", path)
        assert status == 200, content
        reader = PageReader()
        reader.feed(content.decode())
        return content.decode(), json.loads(reader.data)


class PageReader(HTMLParser):
    """Takes the room's data out of its page."""

    data = ""
    inside = False

    def handle_starttag(self, tag, attrs):
        self.inside = ("id", "page") in attrs

    def handle_data(self, data):
        if self.inside:
            self.data += data


@pytest.fixture(scope="module", params=WAYS)
def chat(request, tmp_path_factory):
    example = Example("chat", tmp_path_factory.mktemp("chat"))
    with example.serve("daphne", request.param, Chat) as chat:
        yield chat


def test_message_is_answered_stored_and_streamed_alike(chat):
    with chat.stream("alike") as stream:
        assert stream.next().type == "stream-open"
        first = chat.say("alike", "Ann", "Hello")
        second = chat.say("alike", "Bob", "Two\nlines")
        events = stream.take(2)
    assert first.keys() == {"id", "from", "date", "text"}
    assert (first["from"], first["text"]) == ("Ann", "Hello")
    assert [event.type for event in events] == ["message", "message"]
    assert [json.loads(event.data) for event in events] == [first, second]
    assert chat.history("alike") == {
        "messages": [second, first],
        "last-event-id": events[1].last_event_id,
    }


def test_message_that_is_sent_again_with_its_key_is_there_once(chat):
    fields = {"from": "Ann", "text": "Hello", "key": "1-2-3"}
    with chat.stream("again") as stream:
        stream.next()
        answers = [chat.post("again", fields) for _ in range(2)]
        other = chat.post("again", {**fields, "key": "4-5-6"})
        events = stream.take(2)
    assert answers[0] == answers[1]
    (_, first), (_, second) = answers[0], other
    assert (first["key"], second["key"]) == ("1-2-3", "4-5-6")
    assert [json.loads(event.data) for event in events] == [first, second]
    assert chat.history("again")["messages"] == [second, first]
    # It is a key of its room.
    assert chat.post("elsewhere", fields)[1]["id"] not in {first["id"], second["id"]}


def test_client_gets_what_it_missed_while_away(chat):
    position = chat.history("away")["last-event-id"]
    missed = [chat.say("away", "Ann", f"number {number}") for number in range(3)]
    with chat.stream("away", position) as stream:
        stream.next()
        events = stream.take(2)
    assert [json.loads(event.data) for event in events] == missed[:2]
    with chat.stream("away", events[1].last_event_id) as stream:
        stream.next()
        missed.append(chat.say("away", "Ann", "live"))
        events = stream.take(2)
    assert [json.loads(event.data) for event in events] == missed[2:]


def test_rooms_do_not_hear_each_other(chat):
    with chat.stream("here") as stream:
        stream.next()
        chat.say("there", "Ann", "elsewhere")
        message = chat.say("here", "Ann", "here")
        assert json.loads(stream.next().data) == message


@pytest.mark.parametrize("room", ["Café", "हिन्दी", "部屋", "a_b-3", "x" * 64])
def test_room_may_have_a_name_in_any_script(chat, room):
    _, page = chat.page(f"/{quote(room)}?user=Ann")
    with chat.stream(room, page["last-event-id"]) as stream:
        stream.next()
        message = chat.say(room, "Ann", "Hello")
        assert json.loads(stream.next().data) == message
    assert chat.history(room)["messages"] == [message]


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({}, {"from", "text"}),
        ({"from": "Ann"}, {"text"}),
        ({"from": "Ann", "text": " \n "}, {"text"}),
        ({"from": "", "text": "Hello"}, {"from"}),
        ({"from": "Ann\nBob", "text": "Hello"}, {"from"}),
        ({"from": "x" * 31, "text": "Hello"}, {"from"}),
        ({"from": "Ann", "text": "x" * 2001}, {"text"}),
        ({"from": "Ann", "text": "\0"}, {"text"}),
        ({"from": "Ann", "text": "Hello", "key": "x" * 65}, {"key"}),
    ],
)
def test_bad_message_is_refused_with_the_reason(chat, fields, errors):
    status, content = chat.post("refused", fields)
    assert status == 400
    assert content["errors"].keys() == errors
    assert all(content["errors"].values())
    assert chat.history("refused")["messages"] == []


@pytest.mark.parametrize("room", ["a.b", "a b", " ", "x" * 65, "<b>", "cafe\u0301"])
def test_bad_room_is_refused_with_the_reason(chat, room):
    status, content = chat.post(room, {"from": "Ann", "text": "Hello"})
    assert status == 400
    assert content["errors"].keys() == {"room"}
    status, _, body = chat.request("GET", f"/rooms/{quote(room)}/messages/")
    assert (status, json.loads(body)) == (400, content)


@pytest.mark.parametrize("before", ["x", "0", "-1", "9" * 30])
def test_bad_place_in_history_is_refused(chat, before):
    status, _, body = chat.request("GET", f"/rooms/lobby/messages/?before={before}")
    assert status == 400
    assert json.loads(body)["errors"].keys() == {"before"}


def test_other_methods_are_not_allowed(chat):
    assert chat.request("DELETE", "/rooms/lobby/messages/")[0] == 405
    assert chat.request("POST", "/events/?channel=room-lobby")[0] == 405


def test_long_history_comes_in_pages(chat):
    sent = [chat.say("long", "Ann", str(number))["id"] for number in range(103)]
    newest = [message["id"] for message in chat.history("long")["messages"]]
    older = chat.history("long", f"?before={newest[-1]}")["messages"]
    assert newest + [message["id"] for message in older] == sent[::-1]


def test_page_joins_its_history_and_the_stream(chat):
    told = chat.say("page", "Bob", "Before")
    _, page = chat.page("/page?user=Ann")
    assert (page["user"], page["room"], page["messages"]) == ("Ann", "page", [told])
    missed = chat.say("page", "Bob", "Between")
    with chat.stream("page", page["last-event-id"]) as stream:
        stream.next()
        assert json.loads(stream.next().data) == missed


def test_page_shows_what_people_write_as_text(chat):
    attack = "</script><script>alert(1)</script>"
    told = chat.say("safe", "<img src=x>", attack)
    html, page = chat.page(f"/safe?{urlencode({'user': '<i>Ann</i>'})}")
    assert (page["user"], page["messages"]) == ("<i>Ann</i>", [told])
    for markup in ("<script>alert", "<img", "<i>"):
        assert markup not in html


def test_way_in_leads_to_the_room(chat):
    status, _, content = chat.request("GET", "/")
    assert status == 200
    assert {b'name="user"', b'name="room"'} <= set(re.findall(rb'name="\w+"', content))
    for path, target in [
        ("/?user=Ann&room=Tea+room", "/Tea-room?user=Ann"),
        ("/cafe%CC%81?user=Ann", "/caf%C3%A9?user=Ann"),
        ("/lobby", "/?room=lobby"),
    ]:
        status, headers, _ = chat.request("GET", path)
        assert (status, headers["Location"]) == (302, target)


@pytest.mark.parametrize("path", ["/?user=&room=lobby", "/?user=Ann&room=a.b", "/lobby?user="])
def test_way_in_says_what_is_wrong(chat, path):
    status, _, content = chat.request("GET", path)
    assert status == 400
    assert b'aria-invalid="true"' in content


def test_files_of_the_page_are_served_and_none_is_a_third_partys(chat):
    html, _ = chat.page("/lobby?user=Ann")
    paths = re.findall(r'(?:src|href)="([^"?]+)', html)
    assert {"/static/chat/chat.css", "/static/chat/room.js", "/static/chat/icon.svg"} <= {*paths}
    assert all(re.match("/(?!/)", path) for path in paths)
    for path in paths:
        status, _, content = chat.request("GET", path)
        assert status == 200
        assert content


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_lost_or_doubled_when_the_server_is_killed(way, tmp_path):
    example = Example("chat", tmp_path)
    with example.serve("daphne", way, Chat) as chat, chat.stream("killed") as stream:
        stream.next()
        sent = [chat.say("killed", "Ann", f"before {number}") for number in range(3)]
        received = stream.take(2)
        chat.process.kill()
    with example.serve("daphne", way, Chat) as chat:
        sent.append(chat.say("killed", "Ann", "while away"))
        with chat.stream("killed", received[-1].last_event_id) as stream:
            stream.next()
            received += stream.take(2)
            sent.append(chat.say("killed", "Ann", "after"))
            received.append(stream.next())
        assert [json.loads(event.data) for event in received] == sent
        assert chat.history("killed")["messages"] == sent[::-1]
