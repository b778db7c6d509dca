"""The settings of the tests: an ordinary project, on the database that the environment names."""

import json
import os
import tempfile

BACKEND = os.environ.get("EVENTSTREAM_TEST_DATABASE", "sqlite")
ISOLATION = os.environ.get("EVENTSTREAM_TEST_ISOLATION", "")
PORT = os.environ.get("EVENTSTREAM_TEST_DATABASE_PORT", "")
#: A database that processes share; tests that start none have Django's test database.
NAME = os.environ.get("EVENTSTREAM_TEST_DATABASE_NAME", "")

if BACKEND == "postgresql":
    from psycopg import IsolationLevel

    DATABASE = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": NAME or "postgres",
        "HOST": "127.0.0.1",
        "PORT": PORT,
        "USER": "postgres",
        "OPTIONS": {"isolation_level": IsolationLevel[ISOLATION]} if ISOLATION else {},
    }
elif BACKEND == "mariadb":
    DATABASE = {
        "ENGINE": "django.db.backends.mysql",
        "NAME": NAME or "test",
        "HOST": "127.0.0.1",
        "PORT": PORT,
        "USER": "eventstream",
        "PASSWORD": "eventstream",
        "OPTIONS": {"isolation_level": ISOLATION.replace("_", " ").lower()} if ISOLATION else {},
        # Django's default, which compares names as equal that differ in case and accents.
        "TEST": {"CHARSET": "utf8mb4"},
    }
else:
    DATABASE = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": NAME or ":memory:",
        "OPTIONS": {"timeout": 30},
        # A file: tests use it from several threads and, in memory, they would lock each other out.
        "TEST": {"NAME": os.path.join(tempfile.gettempdir(), f"eventstream-{os.getpid()}.sqlite3")},
    }

SECRET_KEY = "for the tests only"
DEBUG = False
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": DATABASE}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_eventstream",
    "tests.project",
]
if os.environ.get("EVENTSTREAM_TEST_STATIC"):
    INSTALLED_APPS.append("django.contrib.staticfiles")
    STATIC_URL = "/static/"
if os.environ.get("EVENTSTREAM_TEST_DRF"):
    INSTALLED_APPS.append("rest_framework")
    TEMPLATES = [
        {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True},
    ]
if os.environ.get("EVENTSTREAM_TEST_RUNSERVER") == "daphne":
    INSTALLED_APPS.insert(0, "daphne")
    ASGI_APPLICATION = "tests.project.asgi.through_channels"
WSGI_APPLICATION = "tests.project.wsgi.application"
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "tests.project.urls"
USE_TZ = True
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
if ZMQ := os.environ.get("EVENTSTREAM_TEST_GRIP_ZMQ", ""):
    MIDDLEWARE.insert(0, "django_grip.GripMiddleware")
    GRIP_PROXIES = [{"control_zmq_uri": ZMQ}]
if GRIP_URL := os.environ.get("EVENTSTREAM_TEST_GRIP_URL", ""):
    MIDDLEWARE.insert(0, "django_grip.GripMiddleware")
    GRIP_PREFIX = os.environ.get("EVENTSTREAM_TEST_GRIP_PREFIX", "")
    GRIP_VERIFY_KEY = os.environ.get("EVENTSTREAM_TEST_GRIP_VERIFY_KEY", "")
    EVENTSTREAM_GRIP_INTERVAL = float(os.environ.get("EVENTSTREAM_TEST_GRIP_INTERVAL", "300"))
EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.project.channelmanager." + os.environ.get(
    "EVENTSTREAM_TEST_CHANNELMANAGER", "ChannelManager"
)
EVENTSTREAM_KEEP_ALIVE_INTERVAL = float(os.environ.get("EVENTSTREAM_TEST_KEEP_ALIVE", "20"))
EVENTSTREAM_STORAGE_CLASS = os.environ.get(
    "EVENTSTREAM_TEST_STORAGE", "django_eventstream.storage.DjangoModelStorage"
)
if CONNECTION := os.environ.get("EVENTSTREAM_TEST_STORAGE_CONNECTION", ""):
    EVENTSTREAM_STORAGE_CONNECTION = CONNECTION
if BROKERS := os.environ.get("EVENTSTREAM_TEST_BROKER", ""):
    EVENTSTREAM_BROKER = BROKERS.split(",")
if REDIS := os.environ.get("EVENTSTREAM_TEST_REDIS", ""):
    EVENTSTREAM_REDIS = json.loads(REDIS) if REDIS.startswith("{") else REDIS
if LAYER := os.environ.get("EVENTSTREAM_TEST_CHANNEL_LAYER", ""):
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {
                "hosts": [LAYER],
                "capacity": int(os.environ.get("EVENTSTREAM_TEST_CAPACITY", "10000")),
            },
        }
    }
if ORIGINS := os.environ.get("EVENTSTREAM_TEST_ALLOW_ORIGINS", ""):
    EVENTSTREAM_ALLOW_ORIGINS = json.loads(ORIGINS)
    EVENTSTREAM_ALLOW_CREDENTIALS = bool(os.environ.get("EVENTSTREAM_TEST_ALLOW_CREDENTIALS"))
EVENTSTREAM_POLL_INTERVAL = float(os.environ.get("EVENTSTREAM_TEST_POLL_INTERVAL", "1"))
EVENTSTREAM_SEND_TIMEOUT = float(os.environ.get("EVENTSTREAM_TEST_SEND_TIMEOUT", "60"))
EVENTSTREAM_CLEAN_SHUTDOWN = not os.environ.get("EVENTSTREAM_TEST_NO_CLEAN_SHUTDOWN")
