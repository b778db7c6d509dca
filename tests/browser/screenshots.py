"""``python -m tests.browser.screenshots`` takes the docs' pictures from the running examples.

Names of pictures, such as ``chat-phone``, take only those.
"""

from __future__ import annotations

import base64
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import FLAGS
from tests.examples import Example

IMAGES = Path(__file__).parents[2] / "docs" / "images"

SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
#: Each picture's example, screen and colours.
PICTURES = {
    "chat-desktop": ("chat", "desktop", "light"),
    "chat-phone": ("chat", "phone", "light"),
    "chat-phone-dark": ("chat", "phone", "dark"),
    "time-desktop": ("time", "desktop", "light"),
    "time-phone": ("time", "phone", "dark"),
}

#: When they said it, who, and what.
CONVERSATION = [
    ("2026-05-13 18:02", "Nadia", "Has anybody looked at the weather for Saturday?"),
    ("2026-05-13 18:04", "Tomás", "Sunny until four, then showers. We should be down by then."),
    ("2026-05-13 18:05", "Tomás", "The hut opens at eleven, I called them."),
    ("2026-05-13 18:21", "Priya", "Lovely! I can take three people in my car"),
    ("2026-05-13 18:22", "Nadia", "Me please!"),
    (
        "2026-05-13 18:40",
        "Jonas",
        "Count me in. So, as far as I see:\n\n07:10  Priya picks us up\n"
        "08:30  car park at the lake\n11:30  the hut, and soup",
    ),
    ("2026-05-13 18:41", "Priya", "07:10?! On a Saturday?"),
    ("2026-05-13 18:43", "Tomás", "I'll bring coffee."),
    ("2026-05-14 08:55", "Priya", "Then 07:10 it is"),
    (
        "2026-05-14 08:57",
        "Nadia",
        "I still have your map from last time, Jonas. I'll bring it.",
    ),
    ("2026-05-14 08:58", "Nadia", "And the good chocolate."),
    ("2026-05-14 09:03", "Jonas", "That settles it. See you on Saturday!"),
]

FILL_CHAT = """
from datetime import datetime, timezone
from chat.models import Message, Room
room = Room.objects.create(name="Saturday-hike")
for date, author, text in {conversation!r}:
    message = Message.objects.create(room=room, author=author, text=text)
    date = datetime.fromisoformat(date).replace(tzinfo=timezone.utc)
    Message.objects.filter(pk=message.pk).update(date=date)
"""

FILL_TIME = """
from datetime import datetime, timedelta, timezone
from django_eventstream import send_event
end = datetime(2026, 5, 14, 10, 9, 37, tzinfo=timezone.utc)
for second in range(60):
    send_event("time", "tick", {"time": end - timedelta(seconds=59 - second)})
"""


def chat(example: Example, page: Page) -> None:
    page.goto(f"{example.url}/Saturday-hike?user=Nadia")
    page.get_by_text("Live", exact=True).wait_for()
    page.get_by_role("textbox").press_sequentially("Until Saturday! Shall I bring")


def time(example: Example, page: Page) -> None:
    page.goto(example.url)
    page.get_by_text("Live", exact=True).wait_for()
    example.manage("shell", "-v0", "-c", FILL_TIME)
    page.get_by_text("10:09:37").wait_for()


#: What each page shows, its ASGI application, and what is in its database at first.
SHOW: dict[str, tuple[Callable[[Example, Page], None], str, str]] = {
    "chat": (chat, "chat_project.asgi:application", FILL_CHAT.format(conversation=CONVERSATION)),
    "time": (time, "clock.asgi:application", ""),
}


# Takes a PNG as base64; returns its size, its most frequent colours, and each pixel's nearest one.
COUNT_COLOURS = """
async (png) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const { width, height } = image;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const colours = new Map();
  for (let at = 0; at < pixels.length; at += 4) {
    const colour = pixels.slice(at, at + 3).join();
    colours.set(colour, (colours.get(colour) ?? 0) + 1);
  }
  const palette = [...colours].sort((a, b) => b[1] - a[1]).slice(0, 256);
  const entries = palette.map(([colour]) => colour.split(",").map(Number));
  const distance = (a, b) => a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0);
  for (const colour of colours.keys()) {
    const own = colour.split(",").map(Number);
    const distances = entries.map((entry) => distance(entry, own));
    colours.set(colour, distances.indexOf(Math.min(...distances)));
  }
  const indexes = new Uint8Array(width * height);
  for (let at = 0; at < indexes.length; at++) {
    indexes[at] = colours.get(pixels.slice(at * 4, at * 4 + 3).join());
  }
  let text = "";
  for (const index of indexes) text += String.fromCharCode(index);
  return [width, height, entries.flat(), btoa(text)];
}
"""


def shrink(page: Page, png: bytes) -> bytes:
    """Return a PNG with a palette: of a page, which has few colours, a third of the size."""
    width, height, palette, text = page.evaluate(COUNT_COLOURS, base64.b64encode(png).decode())
    indexes = base64.b64decode(text)
    rows = (b"\0" + indexes[row * width : (row + 1) * width] for row in range(height))
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": bytes(palette),
        b"IDAT": zlib.compress(b"".join(rows), 9),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def take(browser: Browser, name: str) -> None:
    """Start the example, take one picture, and end it."""
    example_name, screen, colours = PICTURES[name]
    show, application, code = SHOW[example_name]
    with tempfile.TemporaryDirectory() as folder:
        example = Example(example_name, Path(folder))
        if code:
            example.manage("shell", "-v0", "-c", code)
        with example.serve("daphne", application):
            context = browser.new_context(
                locale="en-GB",
                timezone_id="UTC",
                color_scheme=colours,  # type: ignore[arg-type]
                reduced_motion="reduce",
                **SCREENS[screen],  # type: ignore[arg-type]
            )
            page = context.new_page()
            page.on("console", lambda message: print(message.text, file=sys.stderr))
            page.on("pageerror", lambda error: print(error, file=sys.stderr))
            show(example, page)
            path = IMAGES / f"{name}.png"
            path.write_bytes(shrink(page, page.screenshot(caret="hide")))
            print(f"{path.relative_to(IMAGES.parent.parent)}: {path.stat().st_size:,} bytes")
            context.close()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=False, args=FLAGS
        )
        for name in sys.argv[1:] or PICTURES:
            take(browser, name)
        browser.close()


if __name__ == "__main__":
    main()
