from pathlib import Path

BASE_DIR = Path(__file__).parents[1]
SECRET_KEY = "insecure, for an example on localhost"
DEBUG = True
INSTALLED_APPS = ["django.contrib.staticfiles", "django_eventstream", "notices"]
MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
ROOT_URLCONF = "notices.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "/static/"
STATICFILES_DIRS = [("npm", BASE_DIR / "node_modules")]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "notices.sqlite3"}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
