"""The example projects, served by real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from tests.processes import ASGI_SERVERS, Process, Site, free_port, wait_until

S = TypeVar("S", bound=Site)

EXAMPLES = Path(__file__).parent.parent / "examples"


class Example:
    """One of the projects, with a database of its own.

    It is copied into a folder, since that is where its database is.
    """

    def __init__(self, name: str, folder: Path) -> None:
        leave = shutil.ignore_patterns("*.sqlite3*", "__pycache__")
        self.folder = Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=leave))
        #: The port it is served on, each time.
        self.port = free_port()
        self.manage("migrate", "-v0")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def _environment(self) -> dict[str, str]:
        [settings] = self.folder.glob("*/settings.py")
        return {
            "DJANGO_SETTINGS_MODULE": f"{settings.parent.name}.settings",
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(EXAMPLES.parent)]),
        }

    def manage(self, *arguments: str) -> None:
        """Run a management command to its end."""
        subprocess.run(
            [sys.executable, str(self.folder / "manage.py"), *arguments],
            env={**os.environ, **self._environment},
            check=True,
            timeout=60,
        )

    def start(self, *arguments: str) -> Process:
        """Start a management command in a process of its own."""
        command = [sys.executable, str(self.folder / "manage.py"), *arguments]
        return Process(command, env=self._environment)

    @contextlib.contextmanager
    def serve(
        self,
        server: str,
        application: str,
        kind: type[S] = Site,  # type: ignore[assignment]
    ) -> Iterator[S]:
        """Serve it, and wait until it answers."""
        command = ASGI_SERVERS[server](application, self.port)
        with Process([sys.executable, "-m", *command], env=self._environment) as process:
            site = kind(process, self.port)

            def answers() -> bool:
                try:
                    return site.request("GET", "/")[0] == 200
                except OSError:
                    return False

            wait_until(answers, alive=process, timeout=60)
            yield site
