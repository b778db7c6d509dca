"""What ``pip install .`` gives from a clean checkout, and what the source distribution holds."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NAME = "django_eventstream"

BUILD = """
import setuptools.build_meta, sys
folder = sys.argv[1]  # which setuptools overwrites
for build in (setuptools.build_meta.build_sdist, setuptools.build_meta.build_wheel):
    print("built", build(folder))
"""

USE = """
import sys
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.staticfiles", "rest_framework", "django_eventstream"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    STATIC_URL="static/",
    EVENTSTREAM_STORAGE_CLASS="django_eventstream.storage.DjangoModelStorage",
)
django.setup()

import django_eventstream
from django.contrib.staticfiles import finders
from django.core.management import call_command, get_commands
from django.template.loader import get_template
from django_eventstream import routing, send_event, urls, viewsets

assert django_eventstream.__file__.startswith(sys.argv[1]), django_eventstream.__file__
for name in ("eventsource.min.js", "reconnecting-eventsource.js"):
    assert finders.find(f"django_eventstream/{name}"), name
get_template("django_eventstream/browsable-api-eventstream.html")
commands = {name for name, app in get_commands().items() if app == "django_eventstream"}
assert commands >= {"eventstream_trim", "eventstream_raise_counters"}, commands
call_command("migrate", verbosity=0)
call_command("check")
assert send_event("a", "message", 1).id == 1
"""


def run(*command: object, cwd: Path, path: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "",  # of which the build would complain
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the checkout with nothing in it that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    folder = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # else removed, but not yet from the index
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def build_system(tmp_path_factory):
    """Return a path to import the build system from that pyproject.toml asks for."""
    requirement = re.search(
        r'^requires = \["(setuptools>=(\d+))"\]$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    try:
        if int(importlib.metadata.version("setuptools").split(".")[0]) >= int(requirement[2]):
            return ""
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = tmp_path_factory.mktemp("build-system")
    run("-m", "pip", "install", "--quiet", "--target", folder, requirement[1], cwd=folder)
    return str(folder)


@pytest.fixture(scope="module")
def built(source, build_system, tmp_path_factory):
    """Return the paths of the source distribution and the wheel, and what the build printed."""
    folder = tmp_path_factory.mktemp("dist")
    output = run("-c", BUILD, folder, cwd=source, path=build_system)
    sdist, wheel = re.findall(r"^built (.+)$", output, re.MULTILINE)
    return folder / sdist, folder / wheel, output


@pytest.fixture(scope="module")
def installed(source, build_system, tmp_path_factory):
    """Return where ``pip install .`` put the package."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", folder]
    run("-m", "pip", "install", *options, ".", cwd=source, path=build_system)
    return folder


def package_files(folder):
    return {
        file.relative_to(folder).as_posix()
        for file in (folder / NAME).rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }


def test_every_file_of_the_package_is_installed(source, installed):
    files = package_files(source)
    assert package_files(installed) == files
    # Those that are no modules, and easily forgotten.
    assert f"{NAME}/py.typed" in files
    assert f"{NAME}/migrations/0001_initial.py" in files
    assert f"{NAME}/management/commands/eventstream_trim.py" in files
    assert f"{NAME}/templates/{NAME}/browsable-api-eventstream.html" in files
    assert f"{NAME}/static/{NAME}/reconnecting-eventsource.js" in files


def test_nothing_else_is_installed(installed):
    names = {path.name for path in installed.iterdir()}
    assert names == {NAME, f"{NAME}-6.0.0.dev0.dist-info"}


def test_installed_package_works(installed, tmp_path):
    run("-W", "error", "-c", USE, installed, cwd=tmp_path, path=str(installed))


def test_metadata(installed):
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    metadata = distribution.metadata
    assert metadata["Name"] == "django-eventstream"
    assert metadata["Version"] == "6.0.0.dev0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert (metadata["License-Expression"] or metadata["License"]) == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    requires = {}
    for requirement in distribution.requires:
        name, _, extra = requirement.partition("; extra == ")
        requires.setdefault(extra.strip("\"'"), set()).add(re.match(r"[\w-]+", name)[0].lower())
    assert requires == {
        "": {"django", "channels", "django-grip", "gripcontrol", "pubcontrol", "pyjwt", "requests"},
        "daphne": {"daphne"},
        "redis": {"redis"},
        "postgres": {"psycopg"},
        "drf": {"djangorestframework"},
    }
    assert "Django>=5.2" in distribution.requires


def test_license_is_installed(installed):
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    (license_file,) = (file for file in distribution.files if file.name == "LICENSE")
    text = license_file.read_text()
    assert text.startswith("MIT License")
    assert "django-eventstream contributors" in text


def test_source_distribution_holds_what_a_build_needs(built, source):
    sdist, _, _ = built
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    documents = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    documents |= {f"docs/{file.name}" for file in (source / "docs").glob("*.md")}
    documents |= {f"docs/images/{file.name}" for file in (source / "docs/images").iterdir()}
    build = {"setup.py", "pyproject.toml", "MANIFEST.in"}
    made = {name for name in names if name == "PKG-INFO" or ".egg-info/" in name} | {"setup.cfg"}
    tests = {name for name in names if name.startswith("tests/")}  # setuptools takes some along
    assert names - tests == package_files(source) | documents | build | made


def test_wheel_of_the_source_distribution_is_that_of_the_checkout(built, build_system, tmp_path):
    sdist, wheel, _ = built
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path], check=True)
    (folder,) = tmp_path.iterdir()
    run("-c", BUILD, tmp_path, cwd=folder, path=build_system)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(tmp_path / wheel.name) as other:
        contents = [
            {
                info.filename: info.CRC
                for info in archive.infolist()
                if "RECORD" not in info.filename
            }
            for archive in (one, other)
        ]
    assert contents[0] == contents[1]


def test_build_has_nothing_to_complain_of(built):
    assert "warning" not in built[2].lower()
