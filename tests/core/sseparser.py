"""A parser of text/event-stream, from the standard (WHATWG HTML, 9.2.5 and 9.2.6).

It shares nothing with the package's encoder. With ``strict`` it also fails on what the standard
lets pass, but a server of ours must never send.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

LINE_END = re.compile("\r\n|\n|\r")
DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True)
class ParsedEvent:
    """An event as an EventSource dispatches it."""

    type: str
    data: str
    last_event_id: str = ""


class SSEParser:
    """Takes bytes, in pieces of any size, and gives events.

    ``last_event_id`` is what the client already has when it (re)connects.
    """

    def __init__(self, *, strict: bool = False, last_event_id: str = "") -> None:
        self.strict = strict
        #: "The last event ID string of the event source", which a reconnecting client sends.
        self.last_event_id = last_event_id
        #: The reconnection times received, in milliseconds.
        self.retries: list[int] = []
        self.comments: list[str] = []
        #: Whether a stream-error was dispatched.
        self.failed = False
        # "UTF-8 decode": errors become U+FFFD, and one BOM in front is dropped.
        self._decode = codecs.getincrementaldecoder("utf-8")("strict" if strict else "replace")
        self._at_start = True
        self._after_cr = False
        self._rest = ""
        self._lines = 0  # of the unfinished block
        self._fields: set[str] = set()
        self._id_buffer = last_event_id
        self._type_buffer = ""
        self._data_buffer = ""

    def feed(self, data: bytes) -> list[ParsedEvent]:
        """Return the events that the bytes complete."""
        self._demand(not (self.failed and data), "nothing follows a stream-error", data)
        self._demand(b"\r" not in data, "lines end with LF", data)
        try:
            text = self._decode.decode(data)
        except UnicodeDecodeError as error:
            raise AssertionError("not UTF-8") from error
        if self._at_start and text:
            self._at_start = False
            self._demand(text[0] != "\ufeff", "no BOM", data)
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")  # of a CRLF that was torn apart
        self._rest += text
        events = []
        while end := LINE_END.search(self._rest):
            line, self._rest = self._rest[: end.start()], self._rest[end.end() :]
            self._after_cr = end.group() == "\r" and not self._rest
            event = self._take_line(line)
            if event is not None:
                self._demand(not (self.failed and self._rest), "nothing follows a stream-error")
                events.append(event)
        return events

    def close(self) -> None:
        """Note the end of the stream; what is unfinished is discarded."""
        self._demand(not self._decode.getstate()[0], "the last character is complete")
        self._demand(not self._rest, "the last line is complete", self._rest)
        self._demand(not self._lines, "the last block is complete")

    def _take_line(self, line: str) -> ParsedEvent | None:
        if not line:
            self._lines = 0
            self._fields.clear()
            return self._dispatch()
        self._lines += 1
        if line.startswith(":"):
            self.comments.append(line[1:])
            return None
        field, _, value = line.partition(":")
        self._take_field(field, value.removeprefix(" "))
        return None

    def _take_field(self, field: str, value: str) -> None:
        self._demand(field in ("event", "data", "id", "retry"), "the field is known", field)
        self._demand(field == "data" or field not in self._fields, "fields come once", field)
        self._fields.add(field)
        if field == "event":
            self._demand("\0" not in value, "no NUL in a type", value)
            self._type_buffer = value
        elif field == "data":
            self._data_buffer += value + "\n"
        elif field == "id":
            self._demand("\0" not in value, "no NUL in an id", value)
            if "\0" not in value:
                self._id_buffer = value
        elif field == "retry":
            digits = DIGITS.fullmatch(value)
            self._demand(digits is not None, "retry is a number", value)
            if digits:
                self.retries.append(int(value))

    def _dispatch(self) -> ParsedEvent | None:
        self.last_event_id = self._id_buffer
        event = None
        if self._data_buffer:
            data = self._data_buffer.removesuffix("\n")
            event = ParsedEvent(self._type_buffer or "message", data, self.last_event_id)
            self.failed = event.type == "stream-error"
        else:
            self._demand(not self._type_buffer, "a block with a type has data", self._type_buffer)
        self._type_buffer = self._data_buffer = ""
        return event

    def _demand(self, condition: bool, rule: str, found: object = "") -> None:
        if self.strict and not condition:
            raise AssertionError(f"{rule}; found {found!r}")


def parse(data: bytes, *, last_event_id: str = "") -> list[ParsedEvent]:
    """Return the events of a whole stream of ours."""
    parser = SSEParser(strict=True, last_event_id=last_event_id)
    events = parser.feed(data)
    parser.close()
    return events
