"""The scripts and styles: as files, and at work in a real browser (Debian: ``chromium``)."""

import json
import queue
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import pytest
import uvicorn
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.routers import DefaultRouter

import django_eventstream
from django_eventstream import send_event
from django_eventstream.viewsets import configure_events_view_set
from tests.processes import TIMEOUT, Process

FILES = [
    "django_eventstream/eventsource.min.js",
    "django_eventstream/reconnecting-eventsource.js",
    "django_eventstream/json2.js",
    "django_eventstream/js/browsable-api-eventstream.js",
    "django_eventstream/css/browsable-api-eventstream.css",
]


@pytest.fixture(autouse=True)
def project(rest_framework_project):
    return rest_framework_project


@pytest.mark.parametrize("name", FILES)
def test_files_are_found_small_and_ours(name):
    text = Path(finders.find(name)).read_text("ascii")
    assert len(text) < 10_000
    for word in ("license", "copyright", "sourceMappingURL", "http://", "https://", "eval("):
        assert word.lower() not in text.lower()


def test_no_other_files_are_shipped():
    folder = Path(django_eventstream.__file__).parent / "static"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == set(FILES)


def test_files_can_be_collected_with_hashed_names(project, tmp_path):
    storage = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    project.STATIC_ROOT = tmp_path
    project.STORAGES = {"staticfiles": {"BACKEND": storage}}
    call_command("collectstatic", interactive=False, verbosity=0)
    manifest = json.loads((tmp_path / "staticfiles.json").read_text())
    assert set(FILES) <= set(manifest["paths"])


# A site for the browser


class Script:
    """Streams as written here: an answer for each connection, then 204.

    An answer is a status, or the pieces of a stream's body.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        #: The query and the Last-Event-ID header of each connection.
        self.connections = []

    def __call__(self, request):
        self.connections.append((request.GET.dict(), request.headers.get("Last-Event-ID")))
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, int):
            return HttpResponse(status=answer)

        async def body():
            for piece in answer:
                yield piece

        # GZipMiddleware compresses each piece by itself, and Chromium reads only the first.
        headers = {"Content-Type": "text/event-stream", "Content-Encoding": "identity"}
        return StreamingHttpResponse(body(), headers=headers)


PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<script>
  const report = (result) =>
    fetch("/report/", { method: "POST", body: JSON.stringify(result) });
  onerror = (message, source, line) => report({ error: `${source}:${line}: ${message}` });
  onunhandledrejection = (event) => report({ error: String(event.reason) });
  const NativeEventSource = EventSource;
  const until = async (condition) => {
    for (;;) {
      const value = condition();
      if (value) return value;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const send = (channel, type, data) =>
    fetch("/send/", { method: "POST", body: JSON.stringify([channel, type, data]) });
  %(before)s
</script>
<script src="/static/django_eventstream/eventsource.min.js"></script>
<script src="/static/django_eventstream/reconnecting-eventsource.js"></script>
<body>
<script>
  (async () => { %(body)s })().then(report);
</script>
"""

scripts = {}
page = {}
reports = queue.Queue()


@csrf_exempt
def receive_report(request):
    reports.put(json.loads(request.body))
    return HttpResponse(status=204)


@csrf_exempt
def send(request):
    send_event(*json.loads(request.body))
    return HttpResponse(status=204)


router = DefaultRouter()
router.register("news", configure_events_view_set(["news"], ["message", "info"]), "news")
router.register("members", configure_events_view_set(["users-only"]), "members")

urlpatterns = [
    path("events/", include(django_eventstream.urls)),
    path("api/", include(router.urls)),
    path("page/", lambda request: HttpResponse(PAGE % page)),
    path("report/", receive_report),
    path("send/", send),
    path("script/<str:name>/", lambda request, name: scripts[name](request)),
]


@pytest.fixture
def site(transactional_db):
    """Serve the site with uvicorn; return its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(
            ASGIStaticFilesHandler(get_asgi_application()),
            lifespan="off",
            ws="none",
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def browse(site):
    """Return a function that runs a script in a page of the site, and returns its result."""

    def run(body, before=""):
        page.update(before=before, body=body)
        while not reports.empty():
            reports.get()
        # Not pytest's folder: its path is too long for the socket that Chromium makes there.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            command = [*chromium(), f"--user-data-dir={folder}", f"{site}/page/"]
            with Process(command, env={"TMPDIR": folder}) as process:
                try:
                    result = reports.get(timeout=3 * TIMEOUT)
                except queue.Empty:
                    raise AssertionError(f"the page did not end\n{process.output()}") from None
        assert "error" not in result, result["error"]
        return result

    yield run
    scripts.clear()


def chromium():
    """Return the command line of a browser that shows nothing and talks to nobody."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if program := shutil.which(name):
            return [
                *(program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync", "--disable-breakpad"),
                "--no-proxy-server",
            ]
    raise AssertionError("these tests need Chromium (on Debian: apt-get install chromium)")


# In the browser

#: Everything that section 9.2.6 of the standard says about lines and fields.
BODY = (
    "\ufeff:comment\n\n"
    "data: first\n\n"
    "data:a\rdata:  b\r\ndata\ndata: \N{GRINNING FACE}\r\n\r\n"
    "event: info\rid: r\u00e9sum\u00e9\rdata: {}\r\r"
    "id: with\0NUL\ndata: id is ignored\n\n"
    "event: no data\nid: 2 \u20ac\n\n"
    "data\n\n"
    "retry: 1x\nretry: 20\nunknown: field\n data: no field\nData: no field\n\n"
    "data:unfinished\n"
).encode()

RECORD = """
  const record = (Source, url) => new Promise((resolve) => {
    const log = [];
    const source = new Source(url);
    const note = (event) => log.push(
      [event.type, event.data, event.lastEventId, event.origin === location.origin]);
    source.onmessage = note;
    for (const type of ["info", "no data"]) source.addEventListener(type, note);
    source.onopen = () => log.push(["open", source.readyState]);
    source.onerror = () => {
      log.push(["error", source.readyState]);
      if (source.readyState === source.CLOSED) resolve(log);
    };
  });
"""

#: Lets resumed streams reach the script byte by byte.
BYTEWISE = """
  const realFetch = fetch;
  fetch = async (resource, options) => {
    const response = await realFetch(resource, options);
    const { url, status, headers } = response;
    const body = new TransformStream({
      transform(piece, controller) {
        for (const byte of piece) controller.enqueue(new Uint8Array([byte]));
      }
    });
    const resumed = options.headers && options.headers["Last-Event-ID"];
    return resumed ? { url, status, headers, body: response.body.pipeThrough(body) } : response;
  };
"""


@pytest.mark.slow
def test_event_source_reads_streams_as_the_browser_does(browse):
    for name in ("native", "ours"):
        scripts[name] = Script([BODY], [BODY], [b"data: later\n\n"], 500)
    result = browse(
        RECORD
        + BYTEWISE
        + """
        return {
          native: await record(NativeEventSource, "/script/native/"),
          ours: await record(EventSource, "/script/ours/"),
          same: EventSource === NativeEventSource,
        };
        """,
        before="delete window.EventSource;",
    )
    resumed = "2 \u20ac"
    events = [
        ["message", "a\n b\n\n\N{GRINNING FACE}"],
        ["info", "{}", "r\u00e9sum\u00e9", True],
        ["message", "id is ignored", "r\u00e9sum\u00e9", True],
        ["message", "", resumed, True],
        ["error", 0],
    ]

    def once(last_event_id):
        first = ["message", "first", last_event_id, True]
        return [["open", 1], first, [*events[0], last_event_id, True], *events[1:]]

    assert result["ours"] == [
        *once(""),
        *once(resumed),
        ["open", 1],
        ["message", "later", resumed, True],
        ["error", 0],
        ["error", 2],
    ]
    assert result["native"] == result["ours"]
    assert not result["same"]
    sent = resumed.encode().decode("latin-1")
    assert scripts["ours"].connections == [({}, None), *[({}, sent)] * 3]
    assert scripts["native"].connections == scripts["ours"].connections


@pytest.mark.slow
def test_event_source_keeps_its_interface(browse):
    scripts["hold"] = Script([b"retry: 1\n\ndata: 1\n\ndata: 2\n\n"], [b"data: 3\n\n"])
    scripts["text"] = Script(200)
    result = browse(
        """
        const source = new EventSource("/script/hold/?x#y", { withCredentials: true });
        const seen = [];
        source.addEventListener("message", { handleEvent(event) { seen.push(event.data); } });
        source.addEventListener("message", () => source.close(), { once: true });
        await new Promise((resolve) => setTimeout(resolve, 300));
        let invalid;
        try { new EventSource("http://["); } catch (error) { invalid = error.name; }
        const text = new EventSource("/script/text/");
        await new Promise((resolve) => { text.onerror = resolve; });
        return {
          seen, invalid, url: source.url === location.origin + "/script/hold/?x#y",
          credentials: source.withCredentials, state: source.readyState, text: text.readyState,
          constants: [EventSource.CONNECTING, EventSource.OPEN, source.CLOSED],
        };
        """,
        before="delete window.EventSource;",
    )
    assert result == {
        "seen": ["1"],
        "invalid": "SyntaxError",
        "url": True,
        "credentials": True,
        "state": 2,
        "text": 2,
        "constants": [0, 1, 2],
    }
    assert len(scripts["hold"].connections) == 1


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "delete window.EventSource;"])
def test_reconnecting_event_source_goes_on_until_an_error_for_good(browse, before):
    scripts["flaky"] = Script(
        500,
        503,
        [b"retry: 1\n\nevent: stream-open\nid: a:1\ndata:\n\nevent: info\nid: a:2\ndata: x\n\n"],
        502,
        [b"retry: 1\n\ndata: without id\n\nevent: error\ndata: named so\n\n"],
        404,
        [b"event: stream-error\nid: error\ndata: {}\n\n"],
        [b"data: too late\n\n"],
    )
    result = browse(
        """
        const source = new ReconnectingEventSource("/script/flaky/?b=%20+#hash", {
          lastEventId: "a:0", max_retry_time: 20,
        });
        const log = [];
        const note = ({ type, data, lastEventId }) => log.push([type, data, lastEventId]);
        for (const type of ["message", "info", "stream-error", "error"]) {
          source.addEventListener(type, (event) => "data" in event && note(event));
        }
        const removed = () => log.push("removed");
        source.addEventListener("info", removed);
        source.removeEventListener("info", removed);
        source.onmessage = (event) => log.push(["onmessage", event.target === source]);
        source.onopen = () => log.push(source.readyState);
        source.onerror = (event) => "data" in event || log.push(source.readyState);
        await until(() => source.readyState === ReconnectingEventSource.CLOSED);
        await new Promise((resolve) => setTimeout(resolve, 300));
        return { log, url: source.url === location.origin + "/script/flaky/?b=%20+#hash" };
        """,
        before,
    )
    assert result["url"]
    assert result["log"] == [
        *(0, 0, 1),
        ["info", "x", "a:2"],
        *(0, 0, 1),
        ["onmessage", True],
        ["message", "without id", ""],
        ["error", "named so", ""],
        *(0, 0, 1),
        ["stream-error", "{}", "error"],
        2,
    ]
    start, later = {"b": "  ", "lastEventId": "a:0"}, {"b": "  ", "lastEventId": "a:2"}
    assert scripts["flaky"].connections == [
        (start, None),
        (start, None),
        (start, None),
        (start, "a:2"),  # by the EventSource, which the stream's end does not stop
        (later, None),
        (later, None),
        (later, None),
    ]


@pytest.mark.slow
def test_reconnecting_event_source_waits_longer_each_time(browse):
    result = browse(
        """
        const sources = [];
        class Stub extends EventTarget {
          readyState = 0;
          constructor(url, options) { super(); sources.push(this); this.options = options; }
          close() { this.readyState = 2; }
          fail() { this.readyState = 2; this.onerror(new Event("error")); }
        }
        const pauses = [];
        const patience = window.setTimeout;
        window.setTimeout = (callback, pause) => { pauses.push(pause); return patience(callback); };
        const fail = async () => {
          const count = sources.length;
          sources.at(-1).fail();
          await new Promise((resolve) => patience(resolve, 20));
          return sources.length - count;
        };
        const options = { eventSourceClass: Stub, withCredentials: true, headers: { X: "1" } };
        const source = new ReconnectingEventSource("/x/", options);
        for (Math.random of [() => 0, () => 0, () => 0, () => 0]) await fail();
        sources.at(-1).onopen(new Event("open"));
        const random = [];
        for (Math.random of [() => 1, () => 1, () => 1]) random.push(await fail());
        source.addEventListener("late", (event) => random.push(event.type));
        sources.at(-1).dispatchEvent(new MessageEvent("late", { data: "" }));
        sources.at(-1).fail();
        source.close();
        await new Promise((resolve) => patience(resolve, 50));
        const count = sources.length;
        let missing;
        delete window.EventSource;
        try { new ReconnectingEventSource("/x/"); } catch (error) { missing = error.name; }
        return {
          pauses, random, count, missing, passed: sources[0].options, state: source.readyState,
          credentials: source.withCredentials, max_retry_time: source.max_retry_time,
        };
        """
    )
    assert result == {
        "pauses": [500, 1000, 1500, 1500, 1000, 2000, 3000, 3000],
        "random": [1, 1, 1, "late"],
        "count": 8,
        "missing": "EventSourceNotAvailableError",
        "passed": {"withCredentials": True, "headers": {"X": "1"}},
        "state": 2,
        "credentials": True,
        "max_retry_time": 3000,
    }


@pytest.mark.slow
def test_streams_of_the_endpoint_can_be_resumed(browse):
    for number in range(1, 4):
        send_event("news", "message", number)
    result = browse(
        """
        const resume = async (eventSourceClass, behind) => {
          const log = [];
          const options = { eventSourceClass, lastEventId: "news:1" };
          const source = new ReconnectingEventSource("/events/?channel=news", options);
          source.onmessage = (event) => log.push([event.data, event.lastEventId]);
          await until(() => log.length === behind);
          await send("news", "message", "live");
          await until(() => log.length === behind + 1);
          source.close();
          return log;
        };
        return {
          first: await resume(NativeEventSource, 2),
          second: await resume(EventSource, 3),
        };
        """,
        before="delete window.EventSource;",
    )
    log = [["2", "news:2"], ["3", "news:3"], ['"live"', "news:4"]]
    assert result["first"] == log
    # The other one came when there was one event more.
    assert result["second"] == [*log, ['"live"', "news:5"]]


@pytest.mark.slow
def test_page_shows_events_live_escaped_and_within_the_width_of_a_phone(browse, project):
    project.EVENTSTREAM_KEEP_ALIVE_INTERVAL = 0.2
    hostile = "<img src=x onerror=alert(1)>" + "W" * 500
    result = browse(
        """
        const open = async (url) => {
          const frame = document.createElement("iframe");
          frame.width = 360;
          frame.height = 640;
          frame.src = url;
          document.body.append(frame);
          await new Promise((resolve) => { frame.onload = resolve; });
          return frame.contentDocument;
        };
        const events = (page) => [...page.querySelectorAll("#eventstream-events li")];
        const state = (page) => page.getElementById("eventstream-state").textContent;

        const page = await open("/api/news/");
        await until(() => state(page) === "Connected");
        const hostile = HOSTILE;
        await send("news", "message", hostile);
        await send("news", "info", { html: hostile });
        await until(() => events(page).some((item) => item.dataset.type === "info"));
        const shown = Object.fromEntries(
          events(page).map((item) => [item.dataset.type, item.querySelector("pre")?.textContent]));
        const keepAlive = await until(() => page.querySelector("[data-type=keep-alive]"));
        const hidden = keepAlive.offsetHeight === 0;
        page.getElementById("eventstream-keep-alives").click();
        const stillHidden = keepAlive.offsetHeight === 0;
        const width = page.documentElement.scrollWidth;

        const members = await open("/api/members/");
        await until(() => state(members) === "Ended");
        const refused = events(members).map((item) => item.dataset.type);

        page.getElementById("eventstream-clear").click();
        return {
          shown, hidden, stillHidden, width, refused,
          images: page.images.length, left: events(page).length,
        };
        """.replace("HOSTILE", json.dumps(hostile))
    )
    assert result["shown"]["message"] == json.dumps(hostile)
    assert json.loads(result["shown"]["info"]) == {"html": hostile}
    assert result["images"] == 0
    assert result["width"] <= 360
    assert result["refused"] == ["stream-error"]
    assert result["hidden"]
    assert not result["stillHidden"]
    assert result["left"] == 0
