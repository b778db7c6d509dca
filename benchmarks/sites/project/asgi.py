"""``application`` is Django alone; ``through_channels`` gives the stream to the consumer."""

import importlib.util
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.core.asgi import get_asgi_application

application = get_asgi_application()

if importlib.util.find_spec("django_eventstream.routing"):  # 5.3.4 has none
    from channels.auth import AuthMiddlewareStack
    from channels.routing import URLRouter
    from django.urls import re_path

    import django_eventstream.routing

    stream = AuthMiddlewareStack(URLRouter(django_eventstream.routing.urlpatterns))
    routes = URLRouter([re_path(r"^events/", stream), re_path(r"", application)])


async def through_channels(scope, receive, send):
    if scope["type"] == "http":  # no lifespan
        await routes(scope, receive, send)
