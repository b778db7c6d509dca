"""The same chat through Channels, which serves the stream; all else falls through to Django."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat_project.settings")

# First of all: this loads the settings and apps that the imports below need.
django_application = ASGIStaticFilesHandler(get_asgi_application())

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import re_path  # noqa: E402

import django_eventstream.routing  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [
                re_path(
                    r"^events/",
                    AuthMiddlewareStack(URLRouter(django_eventstream.routing.urlpatterns)),
                ),
                re_path(r"", django_application),
            ]
        ),
    }
)
