"""The Django application."""

from django.apps import AppConfig
from django.core.checks import register
from django.core.exceptions import ImproperlyConfigured
from django.utils.autoreload import autoreload_started
from django.utils.module_loading import import_string

from .brokers import get_brokers
from .shutdown import install


class DjangoEventstreamConfig(AppConfig):
    """``django_eventstream`` in ``INSTALLED_APPS``."""

    name = "django_eventstream"
    verbose_name = "Event streams"

    def ready(self) -> None:
        """Register the system checks, and load what brokers need."""
        from .checks import check_deployment, check_settings  # import models, which now may be

        register(check_settings)
        register(check_deployment, deploy=True)
        autoreload_started.connect(install, dispatch_uid="django_eventstream")
        try:
            brokers = get_brokers()
        except ImproperlyConfigured:
            return  # the checks tell
        for broker in brokers:  # before the first request, which would wait for it
            if broker.handoff:
                import_string(broker.handoff)
