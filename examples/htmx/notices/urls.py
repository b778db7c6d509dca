from django.urls import include, path

import django_eventstream

from . import views

urlpatterns = [
    path("", views.show, {"template": "htmx2"}),
    path("4/", views.show, {"template": "htmx4"}),
    path("list/", views.show, {"template": "list"}, name="list"),
    path("post/", views.post, name="post"),
    path("events/", include(django_eventstream.urls), {"channels": ["notices"]}),
]
