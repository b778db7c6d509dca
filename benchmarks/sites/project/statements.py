"""Counts the statements on the package's tables, for storms of reconnects."""

import os

from django.db.backends.signals import connection_created

count = 0


def _count(execute, sql, params, many, context):
    global count
    if "django_eventstream_event" in sql:
        count += 1
    return execute(sql, params, many, context)


def _install(connection, **kwargs):
    connection.execute_wrappers.append(_count)


if os.environ.get("BENCHMARK_READS"):
    connection_created.connect(_install)
