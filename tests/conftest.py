"""What all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import settings


@pytest.fixture(scope="session")
def shared_database(tmp_path_factory):
    """Return the name of a migrated database that server processes use."""
    name = "blackbox"
    if settings.BACKEND == "sqlite":
        name = str(tmp_path_factory.mktemp("database") / "blackbox.sqlite3")
    elif settings.BACKEND == "postgresql":
        import psycopg

        place = {"host": "127.0.0.1", "port": settings.PORT, "user": "postgres"}
        with psycopg.connect(**place, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name}")
    else:
        import MySQLdb

        place = {"host": "127.0.0.1", "port": int(settings.PORT)}
        connection = MySQLdb.connect(**place, user="eventstream", password="eventstream")
        connection.cursor().execute(f"CREATE OR REPLACE DATABASE {name} CHARACTER SET utf8mb4")
        connection.close()
    manage(name, "migrate", "-v0")
    return name


@pytest.fixture
def rest_framework_project(request, settings):
    """Add Django REST framework, and the urlpatterns of the test's own module."""
    settings.ROOT_URLCONF = request.module.__name__
    settings.INSTALLED_APPS = [
        *settings.INSTALLED_APPS,
        "django.contrib.staticfiles",
        "rest_framework",
    ]
    settings.STATIC_URL = "/static/"
    settings.TEMPLATES = [
        {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
    ]
    return settings


def manage(database: str, *arguments: str, **environment: str) -> str:
    """Run a management command of the tests' project; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.project.manage", *arguments],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "EVENTSTREAM_TEST_DATABASE_NAME": database,
            **environment,
        },
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """Name what was skipped, in the last lines."""
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session, exitstatus):
    """Let a skip fail the run where everything must be there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
