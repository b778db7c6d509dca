"""The application that the workers serve: the tests' project, with faults."""

import os

from tests.faults import inside

inside.move_clock()

from tests.project.asgi import application

if DEFECT := os.environ.get("EVENTSTREAM_FAULTS_DEFECT", ""):
    inside.plant(DEFECT)

__all__ = ["application"]
