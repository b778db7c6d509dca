"""The layers of the package, read from its imports; and its public names."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders

import django_eventstream

PACKAGE = "django_eventstream"
ROOT = Path(django_eventstream.__file__).parent

#: From the bottom up. A module imports only what stands before it, so there can be no cycle.
LAYERS: dict[str, list[str]] = {
    "core": [
        *("exceptions", "sse", "event", "lasteventid", "messages", "sequence", "feed", "protocol"),
    ],
    "policy and adapters": [
        *("conf", "redisclients", "threads", "channelmanager", "cors", "models", "transactions"),
        *("storage.base", "storage", "storage.statements", "storage.database", "storage.redis"),
        *("brokers.base", "brokers", "brokers.outbox", "brokers.grip", "brokers.memory"),
        *("brokers.database", "brokers.postgresql", "brokers.redis", "brokers.channels"),
        *("listening", "hub", "disconnect", "shutdown"),
    ],
    "use cases": ["eventresponse", "eventrequest", "eventstream"],
    "drivers": [
        *("streaming", "views", "grip", "consumers"),
        *("renderers.sserenderer", "renderers.browsableapieventstreamrenderer", "renderers"),
        "viewsets",
    ],
    "wiring": [
        *("urls", "routing", "checks", "apps", "testing"),
        *("management", "management.commands"),
        *("management.commands.eventstream_trim", "management.commands.eventstream_raise_counters"),
        *("management.commands.runserver_ngrok", "templatetags", "templatetags.eventstream"),
        "",  # the package itself, which imports nothing until a name is used
    ],
}
ORDER = [module for layer in LAYERS.values() for module in layer]

#: What the core may use of the standard library: nothing that waits, or knows the time.
PURE = {
    *("__future__", "collections", "dataclasses", "enum", "functools", "itertools", "json"),
    *("operator", "re", "typing", "urllib"),
}

#: Modules of the package that may import one of these; nobody else may.
OPTIONAL: dict[str, set[str]] = {
    "channels": {"consumers", "routing", "brokers.channels"},
    "redis": {"brokers.redis", "redisclients", "storage.redis"},
    "rest_framework": {
        *("renderers", "renderers.sserenderer", "renderers.browsableapieventstreamrenderer"),
        "viewsets",
    },
    "daphne": set(),
    "django_grip": {"grip"},
    "gripcontrol": {"grip", "brokers.grip"},
    "pubcontrol": {"brokers.grip"},
    "requests": {"brokers.grip", "management.commands.runserver_ngrok"},
    "jwt": {"grip", "brokers.grip"},
    "psycopg": {"brokers.postgresql"},
}

#: Functions that import, each with the reason.
INNER_IMPORTS: dict[tuple[str, str], str] = {
    ("apps", "ready"): "the checks import models, which may not be imported before",
    ("storage", "__getattr__"): "imported before the apps are ready, which the models need, and "
    "without Redis",
    ("transactions", "is_stricter"): "Django's module needs a driver for PostgreSQL",
}

#: Modules that load some of their names when they are used, and import them for type checkers.
LAZY = {"", "storage"}


@dataclass(frozen=True)
class Import:
    """One imported module, and where."""

    name: str
    #: The function that it stands in; "" at the top of the module.
    function: str = ""
    #: Whether only type checkers see it.
    typing: bool = False


def file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")) if module else ROOT
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def modules() -> list[str]:
    """Return the package's modules, migrations apart."""
    names = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "migrations":
            names.append(".".join(parts).removesuffix("__init__").removesuffix("."))
    return names


@cache
def imports(module: str) -> list[Import]:
    """Return what a module imports; of the package, the names of modules, with a dot before."""
    tree = ast.parse(file_of(module).read_text())
    return list(_imports(tree, module, Import("")))


def _imports(node: ast.AST, module: str, place: Import) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = place
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = Import("", child.name, place.typing)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = Import("", place.function, typing=True)
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            for name in _names(child, module):
                yield Import(name, place.function, place.typing)
        yield from _imports(child, module, inside)


def _names(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _shorten(alias.name)
        return
    source = node.module or ""
    if node.level:
        is_package = file_of(module).name == "__init__.py"
        parents = f"{PACKAGE}.{module}".rstrip(".").split(".")
        parents = parents[: len(parents) - node.level + is_package]
        source = ".".join([*parents, *filter(None, [source])])
    for alias in node.names:
        # "from . import threads" imports a module, "from .conf import settings" what is in one.
        inner = _shorten(f"{source}.{alias.name}")
        yield inner if inner[0] == "." and inner[1:] in ORDER else _shorten(source)


def _shorten(name: str) -> str:
    return name.removeprefix(PACKAGE) or "." if (name + ".").startswith(f"{PACKAGE}.") else name


def own(module: str, *, typing: bool = False) -> set[str]:
    """Return the modules of the package that a module imports."""
    return {
        found.name[1:]
        for found in imports(module)
        if found.name[0] == "." and found.typing == typing
    }


def foreign(module: str) -> set[str]:
    """Return the top-level packages that a module imports from elsewhere."""
    return {found.name.partition(".")[0] for found in imports(module) if found.name[0] != "."}


# Layers


def test_every_module_has_its_layer():
    assert sorted(ORDER) == modules()


@pytest.mark.parametrize("module", ORDER)
def test_module_imports_only_those_before_it(module):
    late = {found for found in imports(module) if is_late(module, found)}
    used = {found.name[1:] for found in set(imports(module)) - late if found.name[0] == "."}
    assert used - set(ORDER[: ORDER.index(module)]) == set()


def is_late(module: str, found: Import) -> bool:
    """Return whether an import happens when a name is used, or is that of such a name's type."""
    return (module, found.function) in INNER_IMPORTS or (found.typing and module in LAZY)


def test_layers_are_those_of_the_documentation():
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    table = text.partition("\n## Layers\n")[2].partition("\n## ")[0]
    documented: dict[str, set[str]] = {}
    for first in re.findall(r"^\| (.+?) \|", table, re.MULTILINE):
        if first.startswith("**"):
            documented[first.split("**")[1].partition(",")[0]] = names = set()
        elif first.startswith("`"):
            names.update(re.findall(r"`(\w+)`", first))
    for layer, layer_modules in LAYERS.items():
        assert {module.partition(".")[0] for module in layer_modules if module} <= documented[layer]
    assert list(documented) == list(LAYERS)


@pytest.mark.parametrize("module", LAYERS["core"])
def test_core_is_pure(module):
    assert foreign(module) <= PURE
    assert own(module) <= set(LAYERS["core"])


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_package_is_imported_where_it_must_be(package):
    users = {module for module in ORDER if package in foreign(module)}
    assert users <= OPTIONAL[package]


def test_every_import_is_at_the_top_but_those_that_cannot():
    inner = {
        (module, found.function) for module in ORDER for found in imports(module) if found.function
    }
    assert inner == set(INNER_IMPORTS)


def test_imports_are_read_as_they_are_meant():
    # The test of these tests: each way to write an import is found.
    assert "sse" in own("renderers.sserenderer")  # from ..sse import
    assert own("consumers") >= {"threads", "views"}  # from . import threads, views
    assert own("storage.database") >= {"models", "storage.base"}
    assert "storage" in own("management.commands.eventstream_trim")  # from django_eventstream.…
    assert {"django", "asgiref"} <= foreign("threads")
    assert own("") == set()
    assert "eventstream" in own("", typing=True)


# Importing


def loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter, without settings, has after that code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={"PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_importing_the_package_needs_no_settings_and_loads_nothing():
    loaded = loaded_by("import django_eventstream")
    assert PACKAGE in loaded
    assert not {name for name in loaded if name.startswith(f"{PACKAGE}.")}
    packages = {name.partition(".")[0] for name in loaded}
    assert not packages & {"django", "channels", "redis", "rest_framework", "asgiref", "asyncio"}


def test_sending_loads_neither_channels_nor_redis_nor_rest_framework():
    loaded = loaded_by(
        "import django\n"
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_eventstream'])\n"
        "django.setup()\n"
        "from django_eventstream import channel_permission_changed, send_event, urls\n"
        "from django_eventstream.channelmanager import DefaultChannelManager\n"
        "from django_eventstream.storage import DjangoModelStorage\n"
        "import django_eventstream.checks\n"
    )
    assert not {name.partition(".")[0] for name in loaded} & set(OPTIONAL)


def test_core_loads_without_django():
    code = "\n".join(f"import {PACKAGE}.{module}" for module in LAYERS["core"])
    packages = {name.partition(".")[0] for name in loaded_by(code)}
    assert not packages & {"django", "asyncio", "asgiref", "threading", "socket"}


# Public names

PUBLIC = {
    "": [
        *("send_event", "asend_event", "get_current_event_id", "channel_permission_changed"),
        *("get_events", "EventPermissionError", "EventRequest", "EventResponse"),
        *("urls", "routing", "views", "consumers"),
    ],
    "channelmanager": ["ChannelManagerBase", "DefaultChannelManager"],
    "storage": ["StorageBase", "DjangoModelStorage", "RedisStorage", "EventDoesNotExist"],
    "models": ["Event", "EventCounter"],
    "views": ["events"],
    "consumers": ["EventsConsumer"],
    "viewsets": ["EventsViewSet", "configure_events_view_set"],
    "renderers": ["SSEEventRenderer", "BrowsableAPIEventStreamRenderer"],
    "urls": ["urlpatterns"],
    "routing": ["urlpatterns"],
    "testing": ["StorageContractTests", "capture_events"],
    "templatetags.eventstream": ["eventstream_scripts", "eventstream_url"],
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in PUBLIC for name in PUBLIC[module]]
)
def test_public_name_can_be_imported(module, name):
    path = f"{PACKAGE}.{module}".rstrip(".")
    assert getattr(importlib.import_module(path), name) is not None


@pytest.mark.parametrize("name", ["eventsource.min.js", "reconnecting-eventsource.js"])
def test_public_static_file_is_found(name):
    assert finders.find(f"{PACKAGE}/{name}")


def test_all_names_are_those_that_are_loaded_when_used():
    tree = ast.parse(file_of("").read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen_by_type_checkers = {
        alias.asname or alias.name
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules = {"urls", "routing"}
    assert seen_by_type_checkers == {*django_eventstream.__all__, *modules}
    assert set(django_eventstream.__all__) == set(django_eventstream._MODULES)
    assert django_eventstream.__all__ == sorted(django_eventstream.__all__)
    for name in django_eventstream.__all__:
        assert getattr(django_eventstream, name).__module__.startswith(f"{PACKAGE}.")
    assert set(dir(django_eventstream)) >= seen_by_type_checkers


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'django_eventstream' has no attribute 'sent_event'"):
        django_eventstream.sent_event  # noqa: B018
