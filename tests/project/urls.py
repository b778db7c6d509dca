"""The endpoint, mounted in each way, and remote control for tests."""

from django.conf import settings
from django.contrib.staticfiles.views import serve as serve_static
from django.urls import include, path, re_path

import django_eventstream

from . import views

urlpatterns = [
    path("events/", include(django_eventstream.urls)),
    path("fixed/events/", include(django_eventstream.urls), {"channels": ["fixed"]}),
    re_path(
        r"^objects/(?P<obj_id>\w+)/events/",
        include(django_eventstream.urls),
        {"format-channels": ["object-{obj_id}"]},
    ),
    re_path(r"^one/(?P<channel>\w+)/", include(django_eventstream.urls)),
    path(
        "namespaced/",
        include((django_eventstream.urls.urlpatterns, "stream"), namespace="stream"),
        {"channels": ["namespaced"]},
    ),
    path("direct/", django_eventstream.views.events, {"channels": ["direct"]}, name="direct"),
    path("wrapped/", views.wrapped),
    path("send/", views.send),
    path("burst/<str:channel>/<int:count>/", views.burst),
    path("login/<str:name>/", views.log_in),
    path("forbid/<str:name>/<str:group>/<str:channel>/", views.forbid),
    path("forbid-anonymous/<str:channel>/", views.forbid_anonymous),
    path("position/", views.position),
    path("forget/<str:channel>/<int:event_id>/", views.forget),
    path("threads/", views.threads),
    path("streams/", views.streams),
    path("page/", views.page),
    path("joined/<str:channel>/", views.joined),
    re_path(r"^static/(?P<path>.*)$", serve_static, {"insecure": True}),
]

if "rest_framework" in settings.INSTALLED_APPS:
    from rest_framework.routers import DefaultRouter

    from django_eventstream.viewsets import configure_events_view_set

    router = DefaultRouter()
    router.register("news", configure_events_view_set(["news"], ["message", "info"]), "news")
    router.register("members", configure_events_view_set(["users-only"]), "members")
    urlpatterns.append(path("api/", include(router.urls)))
