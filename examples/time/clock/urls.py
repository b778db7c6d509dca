from django.urls import include, path
from django.views.generic import TemplateView

import django_eventstream

urlpatterns = [
    path("", TemplateView.as_view(template_name="clock.html")),
    path("events/", include(django_eventstream.urls), {"channels": ["time"]}),
]
