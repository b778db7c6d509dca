"""Django REST framework's browsable API, with a page that shows a stream live."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.settings import api_settings

from .sserenderer import SSEEventRenderer


class BrowsableAPIEventStreamRenderer(BrowsableAPIRenderer):  # type: ignore[misc]
    """The page for people who open an ``EventsViewSet`` in a browser.

    What is no stream, errors included, looks as in the ordinary browsable API.
    """

    #: What ``?format=`` calls it.
    format = "api_sse"
    template = "django_eventstream/browsable-api-eventstream.html"

    def get_default_renderer(self, view: Any) -> BaseRenderer | None:
        """Show data that is no stream, such as an error, in the format it is sent in."""
        renderer = super().get_default_renderer(view)
        return JSONRenderer() if isinstance(renderer, SSEEventRenderer) else renderer

    def get_context(
        self, data: Any, accepted_media_type: str, renderer_context: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Add ``channels`` and ``messages_types``, lists, and ``stream_url`` for streams."""
        context: dict[str, Any] = super().get_context(data, accepted_media_type, renderer_context)
        context["available_formats"] = [
            renderer.format for renderer in renderer_context["view"].get_renderers()
        ]
        if isinstance(data, Mapping) and "messages_types" in data:
            context["channels"] = data["channels"]
            context["messages_types"] = data["messages_types"]
            context["messages_types_json"] = json.dumps(data["messages_types"])
            context["stream_url"] = _without_format(renderer_context["request"])
        return context


def _without_format(request: Any) -> str:
    """Return the request's path and query without the parameter that asks for this page."""
    query = request.query_params.copy()
    query.pop(api_settings.URL_FORMAT_OVERRIDE, None)
    return f"{request.path}?{query.urlencode()}" if query else str(request.path)
