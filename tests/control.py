"""A proxy's control interface that tests can break; it stands alone or in front of Pushpin's."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import jwt
import requests


class Control:
    """What the control interface does with what is published."""

    def __init__(self, target: str | None) -> None:
        self._target = target
        #: "pass", "lose" (say that it was taken), "fail" (with ``status``), "hang" or "cut".
        self.mode = "pass"
        self.status = 503
        #: With a key, requests must carry a token that is signed with it.
        self.key: bytes | None = None
        self.issuer: str | None = None
        self.port = 0
        #: All requests that were taken: their paths and bodies.
        self.requests: list[tuple[str, bytes]] = []
        #: How many requests came.
        self.count = 0
        self.released = threading.Event()

    @property
    def uri(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def items(self) -> list[dict[str, Any]]:
        """All items that were published."""
        return [item for _, body in self.requests for item in json.loads(body)["items"]]

    def answer(self, path: str, authorization: str, body: bytes) -> int:
        """Return the status of the answer to a request; 0: none."""
        self.count += 1
        mode = self.mode
        if mode == "hang":
            self.released.wait(30)
            mode = self.mode
        if mode == "cut":
            return 0
        if mode == "fail":
            return self.status
        if self.key is not None and not self._believes(authorization):
            return 401
        self.requests.append((path, body))
        if mode == "pass" and self._target:
            headers = {"Content-Type": "application/json"}
            url = self._target + path
            return requests.post(url, body, headers=headers, timeout=10).status_code
        return 200

    def _believes(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        try:
            claims = jwt.decode(
                token,
                self.key or b"",
                algorithms=["HS256"],
                options={"require": ["exp", "iss"]},
                issuer=self.issuer,
            )
        except jwt.InvalidTokenError:
            return False
        return scheme == "Bearer" and bool(claims)


@contextlib.contextmanager
def control(target: str | None = None) -> Iterator[Control]:
    """Serve a control interface, which passes on to that of ``target``."""
    state = Control(target)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = state.answer(self.path, self.headers.get("Authorization", ""), body)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield state
        finally:
            state.mode = "cut"
            state.released.set()
            server.shutdown()
            thread.join()
