"""The chat as a plain Django application: the stream is a Django view, see urls.py."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat_project.settings")

# Serves /static/ too, which daphne does not. A busy site leaves that to its web server.
application = ASGIStaticFilesHandler(get_asgi_application())
