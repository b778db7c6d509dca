"""The scripts and styles as files; what they do is in tests/browser."""

import gzip
import json
import re
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command

import django_eventstream

FOLDER = "django_eventstream/"
SCRIPTS = ["eventsource.min.js", "eventstream.js", "reconnecting-eventsource.js"]
FILES = {
    *(FOLDER + name for name in SCRIPTS),
    *(FOLDER + name + ".map" for name in SCRIPTS),
    *(FOLDER + name.removesuffix("js") + "d.ts" for name in SCRIPTS),
    FOLDER + "json2.js",
    FOLDER + "js/browsable-api-eventstream.js",
    FOLDER + "css/browsable-api-eventstream.css",
}


@pytest.fixture(autouse=True)
def project(rest_framework_project):
    return rest_framework_project


def read(name):
    return Path(finders.find(name)).read_text("ascii")


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_are_found_and_ours(name):
    text = read(name).lower()
    for word in ("license", "copyright", "://", "eval(", "innerhtml"):
        assert word not in text


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".js")))
def test_scripts_are_small(name):
    assert len(gzip.compress(read(name).encode(), 9)) <= 4096


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_name_their_source_map_which_shows_readable_modules(name):
    assert read(FOLDER + name).endswith(f"\n//# sourceMappingURL={name}.map\n")
    source_map = json.loads(read(f"{FOLDER}{name}.map"))
    folder = Path(finders.find(FOLDER + name)).parent
    for path, content in zip(source_map["sources"], source_map["sourcesContent"], strict=True):
        assert (folder / path).resolve().parent.name == "js"
        assert (folder / path).read_text() == content
        assert content.startswith("/**")


def test_no_other_files_are_shipped():
    folder = Path(django_eventstream.__file__).parent / "static"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES


def test_files_can_be_collected_with_hashed_names(project, tmp_path):
    storage = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    project.STATIC_ROOT = tmp_path
    project.STORAGES = {"staticfiles": {"BACKEND": storage}}
    call_command("collectstatic", interactive=False, verbosity=0)
    paths = json.loads((tmp_path / "staticfiles.json").read_text())["paths"]
    assert set(paths) >= FILES
    for name in SCRIPTS:
        script = (tmp_path / paths[FOLDER + name]).read_text()
        (source_map,) = re.findall("sourceMappingURL=(.*)", script)
        assert FOLDER + source_map == paths[f"{FOLDER}{name}.map"]
