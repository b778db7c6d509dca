"""The settings of a project under development, which serves static files too."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

DEBUG = True
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles"]
STATIC_URL = "/static/"
