"""The example chat, as people use it in their browsers."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.visitors import CONTRASTS, SERVER_FAILS
from tests.examples import Example
from tests.processes import Site

PLAIN = "chat_project.asgi:application"
CHANNELS = "chat_project.asgi_channels:application"

ROOMS = itertools.count()

# Collects each word about the connection, and all that is read out.
WATCH = """
window.states = [];
window.readOut = [];
document.addEventListener("DOMContentLoaded", () => {
  const state = document.getElementById("state");
  new MutationObserver(() => {
    window.states.push(state.textContent);
  }).observe(state, { childList: true });
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) window.readOut.push(node.textContent);
    }
  }).observe(document.getElementById("read-out"), { childList: true });
});
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Example:
    return Example("chat", tmp_path_factory.mktemp("chat"))


@pytest.fixture
def site(example) -> Iterator[Site]:
    with example.serve("daphne", PLAIN) as site:
        yield site


@pytest.fixture
def room() -> str:
    """Return the name of a room of the test's own."""
    return f"room-{next(ROOMS)}"


def come_in(context: BrowserContext, example: Example, room: str, user: str) -> Page:
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(f"{example.url}/{room}?user={user}")
    expect(state(page)).to_have_text("Live")
    return page


def state(page: Page):
    return page.locator("#state")


def composer(page: Page):
    return page.get_by_role("textbox", name="Message as")


def say(page: Page, *texts: str) -> None:
    for text in texts:
        composer(page).fill(text)
        composer(page).press("Enter")


def expect_messages(page: Page, texts: list[str]) -> None:
    """Expect just these, in this order, and none on its way."""
    expect(page.locator("#messages li p")).to_have_text(texts)
    expect(page.locator("#outbox li")).to_have_count(0)


def told(site: Site, room: str) -> list[str]:
    """Return all that has been said, oldest first, as the server has it."""
    texts: list[str] = []
    query = ""
    while True:
        status, _, content = site.request("GET", f"/rooms/{room}/messages/{query}")
        assert status == 200
        messages = json.loads(content)["messages"]
        if not messages:
            return texts[::-1]
        texts += [message["text"] for message in messages]
        query = f"?before={messages[-1]['id']}"


def shell(example: Example, code: str) -> None:
    example.manage("shell", "-v0", "-c", code)


@pytest.mark.parametrize(
    ("server", "application"),
    [("daphne", PLAIN), ("daphne", CHANNELS), ("uvicorn", PLAIN)],
    ids=["daphne", "daphne-channels", "uvicorn"],
)
def test_two_people_lose_and_repeat_nothing_when_the_server_is_killed(
    visitors, example, room, server, application
):
    visitors.expected = SERVER_FAILS
    with example.serve(server, application) as site:
        ann, bob = (come_in(visitors.come(), example, room, user) for user in ("Ann", "Bob"))
        for number in range(2):
            say(ann, f"Ann before {number}")
            say(bob, f"Bob before {number}")
        for page in (ann, bob):
            expect(page.locator("#messages li")).to_have_count(4)
        # Killed while both are sending.
        say(ann, "Ann at the moment")
        say(bob, "Bob at the moment")
        site.process.kill()
    for page in (ann, bob):
        expect(state(page)).to_have_text("Reconnecting…")
    say(ann, *(f"Ann meanwhile {number}" for number in range(3)))
    say(bob, *(f"Bob meanwhile {number}" for number in range(3)))
    for page in (ann, bob):
        expect(page.locator("#outbox .status").last).to_have_text("Waiting…")
        expect(composer(page)).to_have_value("")
    with example.serve(server, application) as site:
        for page in (ann, bob):
            expect(state(page)).to_have_text("Live")
        say(ann, "Ann after")
        say(bob, "Bob after")
        for page in (ann, bob):
            expect(page.locator("#messages li")).to_have_count(14)
        texts = told(site, room)
        for page in (ann, bob):
            expect_messages(page, texts)
        for user in ("Ann", "Bob"):
            own = [text for text in texts if text.startswith(user)]
            assert own == [
                *(f"{user} before {number}" for number in range(2)),
                f"{user} at the moment",
                *(f"{user} meanwhile {number}" for number in range(3)),
                f"{user} after",
            ]
        for page, other in ((ann, "Bob"), (bob, "Ann")):
            assert page.evaluate("() => states") == ["Live", "Reconnecting…", "Live"]
            read_out = [f"{other}: {text}" for text in texts if text.startswith(other)]
            assert page.evaluate("() => readOut") == read_out


def test_message_whose_answer_got_lost_is_there_once(example, site, visitors, room):
    visitors.expected = SERVER_FAILS
    page = come_in(visitors.come(), example, room, "Ann")
    # The stream must not bring it first, and so make the second attempt needless.
    page.route("**/events/**", lambda route: route.abort())
    site.process.kill()
    with example.serve("daphne", PLAIN) as site:
        answers: list[str] = []

        def lose_first(route: Route) -> None:
            answer = route.fetch()
            answers.append(answer.text())
            if len(answers) == 1:
                route.abort()
            else:
                route.fulfill(response=answer)

        page.route(f"**/rooms/{room}/messages/", lose_first)
        say(page, "Once")
        expect_messages(page, ["Once"])
        assert len(answers) == 2
        assert answers[0] == answers[1]
        page.unroute_all(behavior="wait")
        expect(state(page)).to_have_text("Live")
        say(page, "Twice")
        expect_messages(page, ["Once", "Twice"])
        assert told(site, room) == ["Once", "Twice"]


MISS = """
from chat.models import Message
from chat.views import channel_of, send_message
from django_eventstream.models import Event
room = {room!r}
Message.objects.filter(room__name=room, text="Taken back").delete()
for number in range({missed}):
    send_message(room, "Bob", f"Missed {{number}}", "")
Event.objects.filter(channel=channel_of(room)).delete()
"""


@pytest.mark.parametrize("missed", [3, 120])
def test_reset_reloads_the_history(visitors, example, room, missed):
    visitors.expected = SERVER_FAILS
    before = ["Stays", "Taken back", "Stays too"]
    with example.serve("daphne", PLAIN):
        ann, bob = (come_in(visitors.come(), example, room, user) for user in ("Ann", "Bob"))
        say(bob, *before)
        expect_messages(ann, before)
    expect(state(ann)).to_have_text("Reconnecting…")
    bob.close()
    say(ann, "Written meanwhile")
    shell(example, MISS.format(room=room, missed=missed))
    with example.serve("daphne", PLAIN) as site:
        expect(ann.locator("#messages li p").last).to_have_text("Written meanwhile")
        expect(state(ann)).to_have_text("Live")
        texts = told(site, room)
        assert len(texts) == 2 + missed + 1
        if missed > 100:
            # A history has one hundred messages. What was shown before is older: between them would
            # be a hole. The message of one's own may have come after it.
            expect(ann.get_by_text("Stays", exact=True)).to_have_count(0)
            texts = texts[-ann.locator("#messages li").count() :]
            assert len(texts) >= 100
        expect_messages(ann, texts)
        assert len(ann.evaluate("() => readOut")) == len(before)
        states = ann.evaluate("() => states")
        assert states[:2] == ["Live", "Reconnecting…"]
        assert states[-1] == "Live"
        if missed > 100:
            ann.get_by_role("button", name="Earlier messages").click()
            expect(ann.locator("#messages li p").first).to_have_text("Stays")
            expect(ann.locator("#messages li")).to_have_count(2 + missed + 1)
            expect(ann.locator("#scroller")).to_be_focused()


def test_reset_reloads_the_history_as_soon_as_it_can_be_had(visitors, example, room):
    visitors.expected = SERVER_FAILS
    with example.serve("daphne", PLAIN):
        page = come_in(visitors.come(), example, room, "Ann")
        say(page, "Before")
        expect_messages(page, ["Before"])
    shell(example, MISS.format(room=room, missed=2))
    failed: list[str] = []

    def fail_twice(route: Route) -> None:
        if len(failed) == 2:
            route.continue_()
        else:
            failed.append(route.request.url)
            route.fulfill(status=503)

    page.route(f"**/rooms/{room}/messages/", fail_twice)
    with example.serve("daphne", PLAIN):
        expect(state(page)).to_have_text("Catching up…")
        expect_messages(page, ["Before", "Missed 0", "Missed 1"])
        expect(state(page)).to_have_text("Live")
        assert len(failed) == 2


DOORS = """
from pathlib import Path
from django_eventstream.channelmanager import DefaultChannelManager

class Doors(DefaultChannelManager):
    def can_read_channel(self, user, channel):
        return not Path(__file__).with_name("closed").exists()
"""


def test_kick_says_why_and_keeps_what_was_typed(visitors, tmp_path, room):
    example = Example("chat", tmp_path)
    (example.folder / "doors.py").write_text(DOORS)
    with (example.folder / "chat_project" / "settings.py").open("a") as settings:
        settings.write('EVENTSTREAM_CHANNELMANAGER_CLASS = "doors.Doors"\n')
    with example.serve("daphne", PLAIN):
        page = come_in(visitors.come(), example, room, "Ann")
        composer(page).fill("Half a sen")
        (example.folder / "closed").touch()
        shell(
            example,
            "from django_eventstream import channel_permission_changed\n"
            f"channel_permission_changed(None, 'room-{room}')",
        )
        expect(state(page)).to_have_text("Stopped")
        expect(page.get_by_role("alert")).to_contain_text("Permission denied")
        (example.folder / "closed").unlink()
        page.get_by_role("button", name="Reload").click()
        expect(state(page)).to_have_text("Live")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(composer(page)).to_have_value("Half a sen")
        visitors.leave()  # before the server does


def test_tabs_of_a_person_share_a_connection(example, site, visitors, room):
    context = visitors.come()
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    pages = [come_in(context, example, room, "Ann") for _ in range(8)]
    bob = come_in(visitors.come(), example, room, "Bob")
    say(bob, "Hello")
    for page in pages:
        expect_messages(page, ["Hello"])
    assert len([url for url in requests if "/events/" in url]) == 1
    say(pages[3], "Hello Bob")
    pages[0].close()  # the first is the one that connected
    say(bob, "How are you?")
    for page in [*pages[1:], bob]:
        expect_messages(page, ["Hello", "Hello Bob", "How are you?"])
    assert len([url for url in requests if "/events/" in url]) == 2


def test_tabs_of_a_person_lose_and_repeat_nothing_when_the_server_is_killed(
    visitors, example, room
):
    visitors.expected = SERVER_FAILS
    context = visitors.come()
    with example.serve("daphne", PLAIN) as site:
        tabs = [come_in(context, example, room, "Ann") for _ in range(3)]
        for number, tab in enumerate(tabs):
            say(tab, f"Before {number}")
        for tab in tabs:
            expect(tab.locator("#messages li")).to_have_count(3)
        site.process.kill()
    for number, tab in enumerate(tabs):
        expect(state(tab)).to_have_text("Reconnecting…")
        say(tab, f"Meanwhile {number}")
    with example.serve("daphne", PLAIN) as site:
        for tab in tabs:
            expect(state(tab)).to_have_text("Live")
            expect(tab.locator("#messages li")).to_have_count(6)
        texts = told(site, room)
        assert sorted(texts[3:]) == [f"Meanwhile {number}" for number in range(3)]
        for tab in tabs:
            expect_messages(tab, texts)


def test_people_at_one_browser_have_connections_of_their_own(example, site, visitors, room):
    context = visitors.come()
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    ann, bob = (come_in(context, example, room, user) for user in ("Ann", "Bob"))
    say(ann, "Hello")
    for page in (ann, bob):
        expect_messages(page, ["Hello"])
    assert len([url for url in requests if "/events/" in url]) == 2


def test_what_is_sent_offline_arrives_when_online(example, site, visitors, room):
    visitors.expected = SERVER_FAILS
    context = visitors.come()
    ann, bob = (
        come_in(person, example, room, user)
        for person, user in ((context, "Ann"), (visitors.come(), "Bob"))
    )
    context.set_offline(True)
    say(ann, "From the tunnel", "Still there")
    expect(ann.locator("#outbox .status").last).to_have_text("Waiting…")
    say(bob, "Where are you?")
    expect(bob.locator("#messages li")).to_have_count(1)
    context.set_offline(False)
    texts = ["Where are you?", "From the tunnel", "Still there"]
    for page in (ann, bob):
        expect_messages(page, texts)
        expect(state(page)).to_have_text("Live")
    assert told(site, room) == texts


def test_nothing_typed_is_lost_with_a_reload(example, site, visitors, room):
    visitors.expected = SERVER_FAILS
    page = come_in(visitors.come(), example, room, "Ann")
    page.route(f"**/rooms/{room}/messages/", lambda route: route.abort())
    say(page, "Sent", "Sent too")
    composer(page).press_sequentially("Not yet")
    page.reload()
    expect(page.locator("#outbox li p")).to_have_text(["Sent", "Sent too"])
    expect(composer(page)).to_have_value("Not yet")
    page.unroute(f"**/rooms/{room}/messages/")
    expect_messages(page, ["Sent", "Sent too"])
    assert told(site, room) == ["Sent", "Sent too"]


def test_refused_message_goes_back_to_where_it_was_written(example, site, visitors, room):
    visitors.expected = SERVER_FAILS  # the answer is a 400
    page = come_in(visitors.come(), example, room, "Ann")
    page.evaluate("() => document.getElementById('text').removeAttribute('maxlength')")
    long = "x" * 2001
    say(page, long)
    expect(page.get_by_role("alert")).to_contain_text(
        "Not sent. Ensure this value has at most 2000"
    )
    expect(composer(page)).to_have_value(long)
    say(page, "Shorter")
    expect_messages(page, ["Shorter"])
    expect(page.get_by_role("alert")).to_have_count(0)


def test_hostile_texts_are_texts(example, site, visitors, room):
    texts = [
        "<img src=x onerror=alert(1)>",
        "</script><script>alert(1)</script>",
        "&lt;b&gt; \\u003Cb> ${1} {{ 1 }}",
        "\u202egnirts\u202c and \u200b",
        "W" * 2000,
        "one\n\n\ttwo",
    ]
    name = '<b onclick="alert(1)">&quot;'
    mallory = visitors.come(viewport={"width": 320, "height": 600}).new_page()
    mallory.goto(f"{example.url}/?room={room}")
    mallory.get_by_role("textbox", name="Nickname").fill(name)
    mallory.get_by_role("button", name="Join").click()
    expect(state(mallory)).to_have_text("Live")
    say(mallory, *texts)
    ann = visitors.come().new_page()
    dialogs: list[str] = []
    ann.on("dialog", lambda dialog: dialogs.append(dialog.message))
    expect(mallory.locator("#outbox li")).to_have_count(0)
    ann.goto(f"{example.url}/{room}?user=Ann")  # from the history
    say(mallory, *texts)  # by the stream
    for page in (mallory, ann):
        expect(page.locator("#messages li")).to_have_count(12)
        shown = page.evaluate(
            "() => [...document.querySelectorAll('#messages p')].map((p) => p.textContent)"
        )
        assert shown == texts * 2
        assert page.locator("#messages :is(img, script, b)").count() == 0
        assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") == 0
        assert page.evaluate("() => scroller.scrollWidth - scroller.clientWidth") == 0
    expect(ann.locator("#messages .author").first).to_have_text(name)
    assert dialogs == []


def test_chat_can_be_used_with_the_keyboard_alone(example, site, visitors, room):
    bob = come_in(visitors.come(), example, room, "Bob")
    say(bob, "Hello")
    page = visitors.come().new_page()
    page.goto(f"{example.url}/?room={room}")
    keyboard = page.keyboard
    keyboard.type("Ann")  # the field has the focus
    keyboard.press("Enter")
    expect(state(page)).to_have_text("Live")
    expect(composer(page)).to_be_focused()
    keyboard.type("First line")
    keyboard.press("Shift+Enter")
    keyboard.type("second line")
    keyboard.press("Enter")
    expect_messages(page, ["Hello", "First line\nsecond line"])
    expect(composer(page)).to_be_focused()

    keyboard.type("by the button")
    keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    assert_focus_is_seen(page)
    keyboard.press("Enter")
    expect(page.locator("#messages li")).to_have_count(3)
    expect(composer(page)).to_be_focused()
    for element in (page.locator("#scroller"), page.get_by_role("link", name="Leave the room")):
        keyboard.press("Shift+Tab")
        expect(element).to_be_focused()
        assert_focus_is_seen(page)
    keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="Room")).to_have_value(room)


def assert_focus_is_seen(page: Page) -> None:
    outline = page.evaluate(
        "() => { const style = getComputedStyle(document.activeElement);"
        " return [style.outlineStyle, parseFloat(style.outlineWidth)]; }"
    )
    assert outline[0] == "solid"
    assert outline[1] >= 2


def test_who_reads_further_up_is_told_of_new_messages_and_stays_there(
    example, site, visitors, room
):
    shell(
        example,
        "from chat.views import send_message\n"
        f"for number in range(40): send_message({room!r}, 'Bob', f'Old {{number}}', '')",
    )
    ann, bob = (come_in(visitors.come(), example, room, user) for user in ("Ann", "Bob"))
    assert ann.evaluate("() => readOut") == []  # nothing of the history
    ann.evaluate("() => { scroller.scrollTop = 0; }")
    ann.wait_for_function("() => new Promise((done) => requestAnimationFrame(() => done(true)))")
    say(bob, "New 1")
    button = ann.locator("#newer")
    expect(button).to_have_text("1 new message")
    say(bob, "New 2")
    expect(button).to_have_text("2 new messages")
    assert ann.evaluate("() => scroller.scrollTop") == 0
    assert ann.evaluate("() => readOut") == ["Bob: New 1", "Bob: New 2"]
    button.click()
    expect(button).to_be_hidden()
    expect(ann.locator("#messages li").last).to_be_in_viewport()
    expect(composer(ann)).to_be_focused()


@contextlib.contextmanager
def worst_looks(page: Page) -> Iterator[None]:
    """Show all that can be shown at once: a notice, a message on its way, older and newer ones."""
    page.route("**/messages/", lambda route: route.abort())
    say(page, "On its way")
    expect(page.locator("#outbox .status")).to_have_text("Waiting…")
    page.evaluate(
        """
        () => {
          const notice = document.getElementById("notice");
          notice.hidden = document.getElementById("again").hidden = false;
          document.getElementById("reason").textContent = "A notice";
          const newer = document.getElementById("newer");
          newer.textContent = "3 new messages";
          newer.hidden = document.getElementById("earlier").hidden = false;
        }
        """
    )
    yield
    page.unroute("**/messages/")


def test_chat_can_be_read_and_named_on_any_screen(example, site, visitors, room):
    visitors.expected = SERVER_FAILS
    names = ["Ann", "Bob", "Dörte", "Євген", "गीता", "Zoë", "max"]
    shell(
        example,
        "from chat.views import send_message\n"
        f"for name in {names!r}: send_message({room!r}, name, 'Hello from ' + name, '')",
    )
    for width, colours in itertools.product([320, 390], ["light", "dark"]):
        screen = {"width": width, "height": 640}
        context = visitors.come(viewport=screen, color_scheme=colours)
        page = context.new_page()
        page.goto(f"{example.url}/?user=Ann&room=a.b")
        assert_accessible(context, page, width)
        page.close()
        page = come_in(context, example, room, "Ann")
        for word in ("open", "connecting", "offline", "closed"):
            page.evaluate("(word) => { state.dataset.state = word; }", word)
            with worst_looks(page) if word == "open" else contextlib.nullcontext():
                assert_accessible(context, page, width)
        context.close()


def assert_accessible(context: BrowserContext, page: Page, width: int) -> None:
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 5
    assert [found for found in contrasts if found[0] < 4.5] == []
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    nodes = context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] != "RootWebArea"
        and any(each["name"] == "focusable" for each in node.get("properties", []))
    ]
    assert len(focusable) >= 3
    assert [node for node in focusable if not node["name"]["value"]] == []
