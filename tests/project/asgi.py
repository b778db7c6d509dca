"""The project as ASGI applications: ``application`` is Django alone, ``through_channels`` not."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

from django.core.asgi import get_asgi_application

application = get_asgi_application()

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import re_path

import django_eventstream


def mount(regex, keywords=None):
    """Return a route to the endpoint."""
    consumer = AuthMiddlewareStack(URLRouter(django_eventstream.routing.urlpatterns))
    return re_path(f"^{regex}", consumer, keywords or {})


through_channels = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [
                mount(r"events/"),
                mount(r"fixed/events/", {"channels": ["fixed"]}),
                mount(
                    r"^objects/(?P<obj_id>\w+)/events/", {"format-channels": ["object-{obj_id}"]}
                ),
                mount(r"one/(?P<channel>\w+)/"),
                mount(r"namespaced/", {"channels": ["namespaced"]}),
                mount(r"direct/", {"channels": ["direct"]}),
                re_path(r"", application),
            ]
        )
    }
)
