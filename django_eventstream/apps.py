"""The Django application."""

from django.apps import AppConfig
from django.core.checks import register


class DjangoEventstreamConfig(AppConfig):
    """``django_eventstream`` in ``INSTALLED_APPS``."""

    name = "django_eventstream"
    verbose_name = "Event streams"

    def ready(self) -> None:
        """Register the system checks."""
        from .checks import check_settings  # imports models, which now may be

        register(check_settings)
