"""Data as ``text/event-stream``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.renderers import BaseRenderer, JSONRenderer

from ..sse import encode_data


class SSEEventRenderer(BaseRenderer):  # type: ignore[misc]  # it has no annotations
    """Lets a view answer requests for ``text/event-stream``.

    Streams themselves are not rendered: ``EventsViewSet`` answers with them as they are.
    """

    media_type = "text/event-stream"
    #: What ``?format=`` calls it.
    format = "text/event-stream"
    charset = "utf-8"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return text and bytes as they are, other data as JSON in one ``message`` event."""
        if data is None:
            return b""
        if isinstance(data, bytes):
            return data
        if isinstance(data, str):
            return data.encode(self.charset)
        return encode_data(JSONRenderer().render(data).decode())
