"""People with browsers of their own, before whose eyes nothing may go wrong."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Request

from tests.processes import TIMEOUT


class Visitors:
    """Their pages may log no warning, throw nothing uncaught, and ask nobody but the site."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        #: What browsers say of requests that fail; for a server that is killed.
        self.expected: tuple[str, ...] = ()
        self.problems: list[str] = []

    def come(self, **options: Any) -> BrowserContext:
        """Return one person's browser."""
        context = self._browser.new_context(locale="en-GB", timezone_id="UTC", **options)
        context.set_default_timeout(TIMEOUT * 1000)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(str(error.error)))
        context.on("request", self._request)
        self._contexts.append(context)
        return context

    def leave(self) -> None:
        """Close their browsers, and fail if anything was wrong."""
        while self._contexts:
            self._contexts.pop().close()
        assert not self.problems, self.problems

    def _console(self, message: ConsoleMessage) -> None:
        if not message.text.startswith(self.expected or ("\0",)):
            self.problems.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).hostname != "127.0.0.1":
            self.problems.append(f"request to {request.url}")


#: Of pages whose server was killed.
SERVER_FAILS = ("Failed to load resource",)

# Texts of all elements that show some, with the contrast to what is behind them. What styles say is
# painted, since colours come in many notations.
CONTRASTS = """
() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
    }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((value) => {
      value /= 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const measure = (element, text, color) => {
    const grounds = [];
    for (let each = element; each; each = each.parentElement) {
      grounds.unshift(getComputedStyle(each).backgroundColor);
    }
    grounds.unshift("Canvas");
    const [a, b] = [luminance(paint(...grounds, color)), luminance(paint(...grounds))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text]);
  };
  for (const element of document.querySelectorAll("body, body *")) {
    if (!element.checkVisibility() || element.closest("script, noscript, svg")) continue;
    const style = getComputedStyle(element);
    const texts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const text = texts.map((node) => node.data).join("").trim();
    if (text) measure(element, text, style.color);
    if (element.value) measure(element, element.value, style.color);
    if (element.placeholder) {
      measure(element, element.placeholder, getComputedStyle(element, "::placeholder").color);
    }
    const before = getComputedStyle(element, "::before");
    if (/^".*\\w/.test(before.content)) measure(element, before.content, before.color);
  }
  return found;
}
"""
