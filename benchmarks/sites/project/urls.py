from django.urls import include, path

import django_eventstream

from . import bare, commits, views

urlpatterns = [
    path("events/", include(django_eventstream.urls)),
    path("bare/", bare.stream),
    path("bare/log-in/", bare.log_in),
    path("bare/send/", bare.send),
    path("commits/", commits.tell),
    path("send/", views.send),
    path("reads/", views.reads),
]
