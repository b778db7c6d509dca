"""What a client of the endpoint sees, over real sockets."""

import json
from urllib.parse import quote

import pytest

from tests.processes import TIMEOUT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.database, pytest.mark.versions]

PADDING = b":" + b" " * 2048 + b"\n\n"


def message(channel, data, **more):
    return {"channel": channel, "event_type": "message", "data": data, **more}


def numbers(events):
    return [json.loads(event.data) for event in events]


# Opening


def test_response_has_the_headers_of_a_stream(site, channel):
    with site.open(f"/events/?channel={channel}", **{"Accept-Encoding": "gzip"}) as stream:
        headers = stream.response.headers
        assert stream.response.status == 200
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Content-Encoding"] is None
        assert headers["Content-Length"] is None


def test_reliable_stream_opens_with_its_position(site, channel):
    site.send(message(channel, 1), message(channel, 2))
    with site.open(f"/events/?channel={channel}") as stream:
        assert stream.next().type == "stream-open"
        assert stream.body == PADDING + f"event: stream-open\nid: {channel}:2\ndata:\n\n".encode()


def test_unreliable_stream_opens_without_an_id(site, channel):
    with site.open(f"/events/?channel=loose-{channel}") as stream:
        assert stream.next().type == "stream-open"
        assert stream.body == PADDING + b"event: stream-open\ndata:\n\n"


def test_client_that_leaves_at_once_harms_nobody(site, channel):
    path = f"/events/?channel={channel}"
    for _ in range(20):
        site.open(path).close()
    with site.open(path) as stream:
        stream.next()
        site.send(message(channel, 1))
        assert numbers([stream.next()]) == [1]
    assert "Traceback" not in site.process.output(), site.process.output()


def test_keep_alive_comes_to_an_idle_stream(site, channel):
    with site.open(f"/events/?channel={channel}") as stream:
        stream.next()
        opened = stream.body
        stream.pull()
        assert stream.body[len(opened) :] == b"event: keep-alive\ndata:\n\n"


# Events


def test_events_arrive_with_their_bytes(site, channel):
    with site.open(f"/events/?channel={channel}") as stream:
        stream.next()
        opened = stream.body
        site.send(
            message(channel, {"foo": "bar"}),
            message(channel, "<p>\r\none\rtwo\n</p>", json_encode=False),
        )
        stream.take(2)
        assert (
            stream.body[len(opened) :]
            == (
                f'event: message\nid: {channel}:1\ndata: {{"foo": "bar"}}\n\n'
                f"event: message\nid: {channel}:2\n"
                "data: <p>\ndata: one\ndata: two\ndata: </p>\n\n"
            ).encode()
        )


def test_unreliable_events_arrive_without_an_id(site, channel):
    with site.open(f"/events/?channel=loose-{channel}") as stream:
        stream.next()
        opened = stream.body
        assert site.send(message(f"loose-{channel}", 1)) == [None]
        stream.next()
        assert stream.body[len(opened) :] == b"event: message\ndata: 1\n\n"


def test_every_stream_gets_the_events_of_its_channels(site, channel):
    other = f"{channel}-other"
    both = f"/events/?channel={channel}&channel={other}"
    with site.open(f"/events/?channel={channel}") as one, site.open(both) as two:
        assert one.next().type == two.next().type == "stream-open"
        site.send(message(other, 1), message(channel, 2), message(other, 3))
        assert numbers([one.next()]) == [2]
        assert sorted(numbers(two.take(3))) == [1, 2, 3]
        assert two.last_event_id == f"{channel}:1,{other}:2"


@pytest.mark.parametrize(
    "name", ["a b,c:d%e", "Grüße/日本", "quo\"te's", "x" * 255, "CASE", "Case"]
)
def test_any_name_can_be_streamed_and_resumed(site, channel, name):
    name = (channel + name)[:255]
    with site.open(f"/events/?channel={quote(name)}") as stream:
        stream.next()
        assert site.send(message(name, 1)) == [1]
        assert numbers(stream.take(1)) == [1]
        position = stream.last_event_id
        assert position == f"{quote(name)}:1"
    assert site.send(message(name, 2), message(name, 3)) == [2, 3]
    with site.open(f"/events/?channel={quote(name)}", position) as stream:
        assert numbers(stream.take(3)[1:]) == [2, 3]


# Transactions


def test_events_of_a_transaction_arrive_after_the_commit_in_order(site, channel):
    with site.open(f"/events/?channel={channel}") as stream:
        stream.next()
        sent = site.send(*(message(channel, n) for n in range(5)), transaction="commit")
        assert sent == [None] * 5
        events = stream.take(5)
        assert numbers(events) == [0, 1, 2, 3, 4]
        assert events[-1].last_event_id == f"{channel}:5"


def test_events_of_a_rolled_back_transaction_never_existed(site, channel):
    loose = f"loose-{channel}"
    with site.open(f"/events/?channel={channel}&channel={loose}") as stream:
        stream.next()
        site.send(message(channel, "gone"), message(loose, "gone"), transaction="rollback")
        assert site.send(message(channel, 1), message(loose, 2)) == [1, None]
        assert sorted(numbers(stream.take(2))) == [1, 2]


# Resuming


def test_client_resumes_by_header_or_parameter(site, channel):
    site.send(*(message(channel, n) for n in range(1, 6)))
    path = f"/events/?channel={channel}"
    with site.open(path, f"{channel}:3") as stream:
        opened, *events = stream.take(3)
        assert opened.last_event_id == f"{channel}:3"
        assert numbers(events) == [4, 5]
    with site.open(
        f"{path}&lastEventId={channel}:1&lastEventId={channel}:4&lastEventId="
    ) as stream:
        assert numbers(stream.take(2)[1:]) == [5]
    with site.open(f"{path}&lastEventId={channel}:1", f"{channel}:4") as stream:
        assert numbers(stream.take(2)[1:]) == [5]


def test_names_that_the_stream_does_not_read_are_ignored(site, channel):
    loose = f"loose-{channel}"
    site.send(message(channel, 1))
    with site.open(
        f"/events/?channel={channel}&channel={loose}", f"nobody:7,{loose}:9,{channel}:0"
    ) as stream:
        opened, event = stream.take(2)
        assert opened.last_event_id == f"{channel}:0"
        assert numbers([event]) == [1]


def test_replay_longer_than_a_page_is_complete(site, channel):
    total = 1300
    for start in range(0, total, 100):
        events = [message(channel, n) for n in range(start, start + 100)]
        site.send(*events, transaction="commit")
    with site.open(f"/events/?channel={channel}", f"{channel}:0") as stream:
        assert numbers(stream.take(1 + total)[1:]) == list(range(total))
        site.send(message(channel, "live"))
        assert numbers([stream.next()]) == ["live"]


def test_position_from_the_future_is_a_reset_of_that_channel_alone(site, channel):
    other = f"{channel}-other"
    site.send(message(channel, 1), message(other, 1), message(other, 2))
    path = f"/events/?channel={channel}&channel={other}"
    with site.open(path, f"{channel}:99,{other}:1") as stream:
        opened, *events = stream.take(3)
        assert opened.last_event_id == f"{channel}:99,{other}:1"
        reset = next(event for event in events if event.type == "stream-reset")
        assert json.loads(reset.data) == {"channels": [channel]}
        assert [json.loads(event.data) for event in events if event.type == "message"] == [2]
        assert stream.last_event_id == f"{channel}:1,{other}:2"


def test_position_before_what_the_log_holds_is_a_reset(site, channel):
    site.send(*(message(channel, n) for n in range(1, 6)))
    site.request("GET", f"/forget/{channel}/4/")
    with site.open(f"/events/?channel={channel}", f"{channel}:1") as stream:
        opened, reset = stream.take(2)
        assert opened.last_event_id == f"{channel}:1"
        assert (reset.type, reset.last_event_id) == ("stream-reset", f"{channel}:5")
        site.send(message(channel, 6))
        assert numbers([stream.next()]) == [6]
    with site.open(f"/events/?channel={channel}", f"{channel}:3") as stream:
        assert numbers(stream.take(4)[1:]) == [4, 5, 6]


def test_what_is_sent_while_a_client_is_away_is_not_lost(site, channel):
    position, received = "", []
    for round_ in range(5):
        with site.open(f"/events/?channel={channel}", position) as stream:
            stream.next()
            if round_:
                received += numbers(stream.take(3))
            site.send(message(channel, [round_, "live"]))
            received += numbers([stream.next()])
            position = stream.last_event_id
        for n in range(3):
            site.send(message(channel, [round_, n]))
    expected = [[r, n] for r in range(4) for n in ("live", 0, 1, 2)]
    assert received == [*expected, [4, "live"]]


# Load


@pytest.mark.parametrize("prefix", ["", "loose-"])
def test_burst_from_many_threads_reaches_everybody_in_one_order(site, channel, prefix):
    channel = prefix + channel
    streams = [site.open(f"/events/?channel={channel}&burst={channel}") for _ in range(3)]
    for stream in streams:
        stream.next()
    if site.proxy:
        # It asks whether something was sent meanwhile; until that is answered it keeps a
        # hundred messages for the streams.
        wait_until(lambda: site.proxy.requests(f"burst={channel}&.*link=next"))
    count = 400  # more than a loop takes in one pass
    # With coverage measured on a busy machine, sending takes its time.
    status, _, _ = site.request("GET", f"/burst/{channel}/{count}/", timeout=3 * TIMEOUT)
    assert status == 204
    received = [numbers(stream.take(count)) for stream in streams]
    assert received[0] == received[1] == received[2]
    for thread in range(4):
        mine = [item["index"] for item in received[0] if item["thread"] == thread]
        assert mine == list(range(count // 4))
    for stream in streams:
        stream.close()


def test_client_that_never_reads_delays_nobody(site, channel):
    silent = site.open(f"/events/?channel={channel}")
    with site.open(f"/events/?channel={channel}") as stream:
        stream.next()
        for number in range(60):
            site.send(message(channel, str(number) + "x" * 100_000))
            assert json.loads(stream.next().data)[:5].rstrip("x") == str(number)
    silent.close()


# Errors


def refused(site, path, last_event_id="", **headers):
    """Return the data of the one event of a refused stream."""
    with site.open(path, last_event_id, **headers) as stream:
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        event = stream.next()
        assert (event.type, event.last_event_id) == ("stream-error", "error")
        assert stream.next() is None
        assert stream.body.startswith(b"event: stream-error\nid: error\ndata: {")
        return json.loads(event.data)


@pytest.mark.parametrize(
    ("query", "last_event_id"),
    [
        ("", ""),
        ("?channel=", ""),
        ("?" + "&".join(f"channel=c{n}" for n in range(11)), ""),
        ("?channel=" + "x" * 256, ""),
        ("?channel=a%00b", ""),
        ("?channel=a", "nonsense"),
        ("?channel=a", "a:-1"),
        ("?channel=a", "a:1,a:2"),
        ("?channel=a", "%FF:1"),
        ("?channel=a&lastEventId=a:1,", ""),
        ("?channel=a", "a:" + "9" * 5000),
    ],
)
def test_unreadable_request_is_a_bad_request(site, query, last_event_id):
    error = refused(site, f"/events/{query}", last_event_id)
    assert error["condition"] == "bad-request"
    assert error["text"]


def test_resuming_after_an_error_is_a_plain_400(site, channel):
    headers = {"Last-Event-ID": "error"}
    status, headers, _ = site.request("GET", f"/events/?channel={channel}", headers=headers)
    assert status == 400
    assert headers["Cache-Control"] == "no-cache, no-transform"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_other_methods_are_not_allowed(site, method):
    status, headers, _ = site.request(method, "/events/?channel=a")
    assert status == 405
    assert headers["Allow"] == "GET, OPTIONS"


def test_preflight_is_answered(site):
    status, headers, _ = site.request("OPTIONS", "/events/", headers={"Origin": "http://a.test"})
    assert status == 200
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Allow-Methods"] == "GET, OPTIONS"
    assert "Last-Event-ID" in headers["Access-Control-Allow-Headers"]


# Selecting channels


@pytest.mark.parametrize(
    ("path", "channel"),
    [
        ("/fixed/events/?channel=other", "fixed"),
        ("/objects/7/events/?channel=other", "object-7"),
        ("/one/single/?channel=other", "single"),
        ("/namespaced/", "namespaced"),
        ("/direct/", "direct"),
        ("/wrapped/", "wrapped"),
        ("/events/?channel=queried", "queried"),
    ],
)
def test_channels_are_selected(site, path, channel):
    with site.open(path) as stream:
        stream.next()
        site.send(message("other", 0), message(channel, 1))
        assert numbers([stream.next()]) == [1]


# Permissions


def test_channel_for_users_is_forbidden_to_others(site, channel):
    private = f"users-{channel}"
    error = refused(site, f"/events/?channel={private}&channel={channel}")
    assert error["condition"] == "forbidden"
    assert error["channels"] == [private]
    _, cookie = site.log_in("ann")
    with site.open(f"/events/?channel={private}", Cookie=cookie) as stream:
        assert stream.next().type == "stream-open"
        site.send(message(private, 1))
        assert numbers([stream.next()]) == [1]


def test_kick_ends_the_streams_of_one_user_on_one_channel(site, channel):
    private = f"group-g{channel.split('-')[1]}-x"
    group = private.split("-")[1]
    _, bob = site.log_in(f"bob-{channel}", group)
    _, eve = site.log_in(f"eve-{channel}", group)
    kicked = site.open(f"/events/?channel={private}&channel={channel}", Cookie=bob)
    staying = site.open(f"/events/?channel={private}", Cookie=eve)
    elsewhere = site.open(f"/events/?channel={channel}", Cookie=bob)
    for stream in (kicked, staying, elsewhere):
        assert stream.next().type == "stream-open"
    site.request("GET", f"/forbid/bob-{channel}/{group}/{private}/")
    error = kicked.next()
    assert (error.type, error.last_event_id) == ("stream-error", "error")
    assert json.loads(error.data)["condition"] == "forbidden"
    assert json.loads(error.data)["channels"] == [private]
    assert kicked.next() is None
    site.send(message(private, 1), message(channel, 2))
    assert numbers([staying.next()]) == [1]
    assert numbers([elsewhere.next()]) == [2]
    for stream in (kicked, staying, elsewhere):
        stream.close()


def test_anonymous_kick_ends_streams_without_a_user_only(site, channel):
    public = f"anonymous-{channel}"
    _, cookie = site.log_in("ann")
    with (
        site.open(f"/events/?channel={public}") as anonymous,
        site.open(f"/events/?channel={public}", Cookie=cookie) as known,
    ):
        anonymous.next()
        known.next()
        site.request("GET", f"/forbid-anonymous/{public}/")
        assert anonymous.next().type == "stream-error"
        assert anonymous.next() is None
        site.send(message(public, 1))
        assert numbers([known.next()]) == [1]


def test_skipped_user_never_gets_the_event_and_moves_on(site, channel):
    user_id, cookie = site.log_in("skipped")
    path = f"/events/?channel={channel}"
    with site.open(path, Cookie=cookie) as skipped, site.open(path) as other:
        skipped.next()
        other.next()
        site.send(message(channel, "for others", skip_user_ids=[user_id]), message(channel, 2))
        assert numbers([skipped.next()]) == [2]
        assert numbers(other.take(2)) == ["for others", 2]
        site.send(message(channel, "for others", skip_user_ids=[str(user_id)]))
        other.next()
        if not site.name.startswith("pushpin"):  # a proxy tells it with the next event
            for _ in range(10):
                skipped.pull()
                if skipped.parser.last_event_id == f"{channel}:3":
                    break
            assert skipped.parser.last_event_id == f"{channel}:3"
        site.send(message(channel, 4))
        assert numbers([skipped.next()]) == [4]
        assert skipped.last_event_id == f"{channel}:4"
    with site.open(path, f"{channel}:0", Cookie=cookie) as resumed:
        assert numbers(resumed.take(3)[1:]) == [2, 4]


def test_page_and_stream_join_without_a_gap(site, channel):
    site.send(message(channel, 1))
    _, _, position = site.request("GET", f"/position/?channel={channel}&channel=loose-{channel}")
    assert position.decode() == f"{channel}:1"
    site.send(message(channel, 2))
    with site.open(f"/events/?channel={channel}&lastEventId={quote(position)}") as stream:
        assert numbers(stream.take(2)[1:]) == [2]
