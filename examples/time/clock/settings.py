from pathlib import Path

SECRET_KEY = "insecure, for an example on localhost"
DEBUG = True
INSTALLED_APPS = ["django.contrib.staticfiles", "django_eventstream", "clock"]
ROOT_URLCONF = "clock.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "/static/"
DATABASE = Path(__file__).parents[1] / "clock.sqlite3"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}}

EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
EVENTSTREAM_POLL_INTERVAL = 0.1  # so late comes, at most, what another process sends
