"""A project as many have it, for this package and for 5.3.4; the environment says the rest."""

import os

SECRET_KEY = "for benchmarks only"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_eventstream",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "project.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
if port := os.environ.get("BENCHMARK_POSTGRESQL"):
    DATABASE = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["BENCHMARK_DATABASE"],
        "HOST": "127.0.0.1",
        "PORT": port,
        "USER": "postgres",
    }
else:
    DATABASE = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["BENCHMARK_DATABASE"],
        "OPTIONS": {
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }
DATABASES = {"default": DATABASE}
if os.environ.get("BENCHMARK_STORAGE"):
    EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
if os.environ.get("BENCHMARK_COMMITS"):
    EVENTSTREAM_STORAGE_CLASS = "project.commits.Storage"
if seconds := os.environ.get("BENCHMARK_KEEP_ALIVE"):
    EVENTSTREAM_KEEP_ALIVE_INTERVAL = float(seconds)
if broker := os.environ.get("BENCHMARK_BROKER"):
    EVENTSTREAM_BROKER = broker
if redis := os.environ.get("BENCHMARK_REDIS"):
    EVENTSTREAM_REDIS = redis
if grip := os.environ.get("BENCHMARK_GRIP"):
    MIDDLEWARE.insert(0, "django_grip.GripMiddleware")
    GRIP_URL = grip
