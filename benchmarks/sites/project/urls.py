from django.urls import include, path

import django_eventstream

from . import views

urlpatterns = [
    path("events/", include(django_eventstream.urls)),
    path("bare/", views.bare),
    path("login/", views.log_in),
    path("send/", views.send),
]
