"""Checks name each wrong setting and its remedy; and settings are read when they are used."""

import io
import sys

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from django_eventstream import conf
from django_eventstream.channelmanager import DefaultChannelManager, get_channelmanager
from django_eventstream.checks import MOST, NUMBERS, OPTIONAL, check_settings
from django_eventstream.conf import Settings
from django_eventstream.storage import DjangoModelStorage, StorageBase, get_storage
from tests.storages import MemoryStorage


class Explodes:
    def __init__(self):
        raise RuntimeError("no such host")


class HalfAManager:
    def get_channels_for_request(self, request, view_kwargs):
        return []

    def can_read_channel(self, user, channel):
        return True


class Another(DefaultChannelManager):
    pass


class HalfAStorage(StorageBase):
    append_event = get_events = len


class TakesAnyKeyword(MemoryStorage):
    def append_event(self, channel, event_type, data, **kwargs):
        raise NotImplementedError


def check_one(settings, name, value):
    """Return the one message that a setting's value gets."""
    setattr(settings, name, value)
    (message,) = check_settings()
    return message


def assert_error(message, number, text, hint):
    assert message.id == f"django_eventstream.{number}"
    assert message.is_serious() == number.startswith("E")
    assert text in message.msg
    assert hint in message.hint


# E010, W008: where RedisStorage's Redis is


@pytest.mark.parametrize(
    ("connection", "text"),
    [
        (None, "EVENTSTREAM_STORAGE_CONNECTION is not set"),
        ("localhost", "URL cannot be read"),
        ({"hots": "localhost"}, "hots"),
        (["localhost"], "of type list"),
    ],
)
def test_redis_storage_needs_a_connection(settings, connection, text):
    settings.EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.RedisStorage"
    message = check_one(settings, "EVENTSTREAM_STORAGE_CONNECTION", connection)
    assert message.id == "django_eventstream.E010"
    assert text in message.msg
    assert "'redis://localhost:6379/0'" in message.msg


def test_missing_redis_package_names_the_remedy(settings, monkeypatch):
    for name in ("storage.redis", "brokers.redis", "redisclients"):
        monkeypatch.delitem(sys.modules, f"django_eventstream.{name}", raising=False)
    monkeypatch.delattr("django_eventstream.redisclients", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    message = check_one(settings, "EVENTSTREAM_REDIS", "redis://localhost")
    assert message.id == "django_eventstream.E009"
    assert "pip install django-eventstream[redis]" in message.msg
    settings.EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.RedisStorage"
    (message,) = check_settings()
    assert message.id == "django_eventstream.E001"
    assert "pip install django-eventstream[redis]" in message.msg


@pytest.mark.parametrize(
    "changes",
    [
        {"EVENTSTREAM_STORAGE_CLASS": "django_eventstream.storage.RedisStorage"},
        {"EVENTSTREAM_STORAGE_CLASS": "tests.storages.MemoryStorage"},  # it may read it
        {"EVENTSTREAM_BROKER": "redis"},
    ],
)
def test_connection_for_what_uses_it_is_fine(settings, changes):
    for name, value in changes.items():
        setattr(settings, name, value)
    settings.EVENTSTREAM_STORAGE_CONNECTION = "redis://localhost"
    assert check_settings() == []


@pytest.mark.parametrize("redis", [None, {"host": "localhost"}])
def test_connection_that_nothing_uses_is_told(settings, redis):
    settings.EVENTSTREAM_REDIS = redis
    message = check_one(settings, "EVENTSTREAM_STORAGE_CONNECTION", "redis://localhost")
    assert_error(message, "W008", "DjangoModelStorage", "RedisStorage")


# The command


def test_project_of_the_tests_has_nothing_to_complain_of():
    assert check_settings() == []
    call_command("check", stdout=(out := io.StringIO()))
    assert out.getvalue() == "System check identified no issues (0 silenced).\n"


def test_wrong_setting_fails_the_command_with_its_number_and_remedy(settings):
    settings.EVENTSTREAM_PADDING = -1
    with pytest.raises(SystemCheckError) as raised:
        call_command("check")
    assert "django_eventstream.E003" in str(raised.value)
    assert "EVENTSTREAM_PADDING is -1." in str(raised.value)
    assert "HINT: Set it to a whole number from 0 up" in str(raised.value)


def test_warning_lets_the_command_pass(settings):
    settings.EVENTSTREAM_PADING = 1
    call_command("check", stderr=(err := io.StringIO()))
    assert "django_eventstream.W001" in err.getvalue()


def test_all_mistakes_are_told_at_once(settings):
    settings.EVENTSTREAM_STORAGE_CLASS = "no.such.Storage"
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "no.such.Manager"
    settings.EVENTSTREAM_PADDING = None
    settings.EVENTSTREAM_ALLOW_ORIGIN = ["a b", "c d"]
    settings.EVENTSTREAM_ALLOW_HEADERS = 7
    ids = [message.id.partition(".")[2] for message in check_settings()]
    assert ids == ["E001", "E002", "E003", "E004", "E004", "E005"]


# E001, W002: the storage


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("no.such.Storage", "cannot be loaded"),
        ("tests.storages.NoSuchStorage", "cannot be loaded"),
        ("Storage", "cannot be loaded"),
        ("tests.test_checks.HalfAManager", "is no storage"),
        ("tests.test_checks.Explodes", "RuntimeError: no such host"),
        (MemoryStorage, "cannot be loaded"),
        (7, "cannot be loaded"),
    ],
)
def test_storage_that_cannot_be_had_is_an_error(settings, path, text):
    message = check_one(settings, "EVENTSTREAM_STORAGE_CLASS", path)
    assert_error(message, "E001", text, "'django_eventstream.storage.DjangoModelStorage'")
    assert message.msg.startswith("EVENTSTREAM_STORAGE_CLASS: ")


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        "django_eventstream.storage.DjangoModelStorage",
        "tests.storages.MemoryStorage",
        "tests.test_checks.TakesAnyKeyword",
    ],
)
def test_storage_or_none_is_fine(settings, path):
    settings.EVENTSTREAM_STORAGE_CLASS = path
    assert check_settings() == []


def test_storage_that_lacks_a_method_is_an_error(settings):
    path = "tests.test_checks.HalfAStorage"
    message = check_one(settings, "EVENTSTREAM_STORAGE_CLASS", path)
    assert_error(message, "E001", "has no method get_current_id", "DjangoModelStorage")


def test_storage_that_forgets_whom_to_skip_is_a_warning(settings):
    message = check_one(settings, "EVENTSTREAM_STORAGE_CLASS", "tests.storages.ThreeArguments")
    assert_error(message, "W002", "EVENTSTREAM_STORAGE_CLASS", "keyword argument skip_user_ids")


# E002: the channel manager


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("no.such.Manager", "cannot be loaded"),
        ("tests.test_checks.HalfAManager", "has no method is_channel_reliable"),
        ("tests.test_checks.Explodes", "RuntimeError: no such host"),
        (DefaultChannelManager, "cannot be loaded"),
    ],
)
def test_channel_manager_that_cannot_be_had_is_an_error(settings, path, text):
    message = check_one(settings, "EVENTSTREAM_CHANNELMANAGER_CLASS", path)
    hint = "subclass of django_eventstream.channelmanager.DefaultChannelManager"
    assert_error(message, "E002", text, hint)
    assert message.msg.startswith("EVENTSTREAM_CHANNELMANAGER_CLASS: ")


# E003: numbers


def defaults():
    return {name: getattr(_Untouched(), name.lower()) for name in NUMBERS}


class _Untouched(Settings):
    @staticmethod
    def _get(name, default):
        return default


def test_every_number_has_a_check():
    kinds = {"int", "float", "int | None", "float | None"}
    numbers = {
        name.upper()
        for name, value in vars(Settings).items()
        if isinstance(value, property) and value.fget.__annotations__["return"] in kinds
    }
    assert set(NUMBERS) == numbers


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [-1, True, "10", "", b"1", [1], float("nan"), float("inf"), 1 + 0j], ids=repr
)
def test_what_is_no_number_in_range_is_an_error(settings, name, value):
    message = check_one(settings, f"EVENTSTREAM_{name}", value)
    hint = f"remove it for the default, {defaults()[name]!r}."
    assert_error(message, "E003", f"EVENTSTREAM_{name} is {value!r}.", hint)


@pytest.mark.parametrize("name", NUMBERS)
def test_least_number_and_more_are_fine_and_less_is_not(settings, name):
    least, whole = NUMBERS[name]
    for value in (int(least) + 1, least, defaults()[name]):
        setattr(settings, f"EVENTSTREAM_{name}", value)
        assert check_settings() == []
    for value in (least - (1 if whole else 0.001), *([least + 0.5] if whole else [])):
        message = check_one(settings, f"EVENTSTREAM_{name}", value)
        kind = "a whole number" if whole else "a number"
        assert_error(message, "E003", f"EVENTSTREAM_{name} is", f"{kind} from {least:g} ")


@pytest.mark.django_db
def test_events_are_kept_for_as_long_as_there_is_a_calendar(settings):
    settings.EVENTSTREAM_RETENTION = MOST["RETENTION"]
    assert check_settings() == []
    assert DjangoModelStorage().trim() == 0
    message = check_one(settings, "EVENTSTREAM_RETENTION", 10**11)
    assert_error(message, "E003", "EVENTSTREAM_RETENTION is", "a number from 1 to 3153600000")


@pytest.mark.parametrize("name", sorted(set(NUMBERS) - OPTIONAL))
def test_none_is_no_number(settings, name):
    message = check_one(settings, f"EVENTSTREAM_{name}", None)
    assert_error(message, "E003", f"EVENTSTREAM_{name} is None.", "remove it for the default")


def test_none_is_no_limit(settings):
    settings.EVENTSTREAM_MAX_EVENTS_PER_CHANNEL = None
    settings.EVENTSTREAM_MAX_STREAM_AGE = None
    assert check_settings() == []


# E004, W003: origins


@pytest.mark.parametrize("name", ["EVENTSTREAM_ALLOW_ORIGIN", "EVENTSTREAM_ALLOW_ORIGINS"])
@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://example.com/",
        "https://example.com/path",
        "https://user@example.com",
        "https://*.example.com",
        "*.example.com",
        "https://",
        "https://example.com:0",
        "https://example.com:99999",
        "example.com:8000",
        "example.com/",
        "//example.com",
        "example.com, example.org",
        "https://b\xfccher.example",
        "b\xfccher.example",
        "a b",
        ".",
        " ",
    ],
)
def test_what_is_no_origin_is_an_error(settings, name, origin):
    for value in (origin, ["example.org", origin]):
        message = check_one(settings, name, value)
        text = f"{name}: {origin!r} is neither a host nor an origin."
        assert_error(message, "E004", text, "'https://example.com:8443'")


@pytest.mark.parametrize("value", [7, {"example.com": 1}, [None], [b"example.com"], [["a"]]])
def test_origins_of_a_wrong_type_are_an_error(settings, value):
    message = check_one(settings, "EVENTSTREAM_ALLOW_ORIGINS", value)
    assert_error(message, "E004", "EVENTSTREAM_ALLOW_ORIGINS: ", "Give hosts")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        [],
        "*",
        "example.com",
        ".example.com",
        "my_host",
        "[::1]",
        "https://example.com",
        "https://example.com:8443",
        "http://[::1]:8000",
        "capacitor://localhost",
        ("example.com", "https://example.org"),
        {"example.com"},
    ],
    ids=repr,
)
def test_hosts_and_origins_are_fine(settings, value):
    settings.EVENTSTREAM_ALLOW_ORIGIN = settings.EVENTSTREAM_ALLOW_ORIGINS = value
    assert check_settings() == []


@pytest.mark.parametrize(("hosts", "origins"), [(["*"], None), ([], "*"), ([], ["a.org", "*"])])
def test_everything_with_credentials_is_a_warning(settings, hosts, origins):
    settings.ALLOWED_HOSTS = hosts
    settings.EVENTSTREAM_ALLOW_ORIGINS = origins
    message = check_one(settings, "EVENTSTREAM_ALLOW_CREDENTIALS", True)
    hint = "List the origins in EVENTSTREAM_ALLOW_ORIGINS."
    assert_error(message, "W003", "EVENTSTREAM_ALLOW_CREDENTIALS", hint)


def test_credentials_for_some_or_everything_without_are_fine(settings):
    settings.ALLOWED_HOSTS = ["*"]
    settings.EVENTSTREAM_ALLOW_CREDENTIALS = False
    assert check_settings() == []
    settings.EVENTSTREAM_ALLOW_CREDENTIALS = True
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["example.com"]
    assert check_settings() == []


@pytest.mark.parametrize("value", ["False", 0, 1, None])
@pytest.mark.parametrize("name", ["ALLOW_CREDENTIALS", "CLEAN_SHUTDOWN"])
def test_what_is_no_boolean_is_an_error(settings, name, value):
    settings.ALLOWED_HOSTS = ["example.com"]
    message = check_one(settings, f"EVENTSTREAM_{name}", value)
    text = f"EVENTSTREAM_{name} is {value!r}."
    assert_error(message, "E006", text, "True or False")


# E005: headers


@pytest.mark.parametrize("value", [7, ["X-A", ""], ["X A"], [7], "X-A,,X-B", "X-A\n: 1", "X:"])
def test_what_is_no_header_is_an_error(settings, value):
    message = check_one(settings, "EVENTSTREAM_ALLOW_HEADERS", value)
    assert_error(message, "E005", f"EVENTSTREAM_ALLOW_HEADERS is {value!r}.", "list of names")


@pytest.mark.parametrize("value", [None, "", [], "X-A", "X-A, X-B", ["X-A", "X-B"], ("X-A",)])
def test_headers_are_fine(settings, value):
    settings.EVENTSTREAM_ALLOW_HEADERS = value
    assert check_settings() == []


# W001: unknown names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EVENTSTREAM_STORAGE", "Did you mean EVENTSTREAM_STORAGE_CLASS?"),
        ("EVENTSTREAM_ALOW_ORIGINS", "Did you mean EVENTSTREAM_ALLOW_ORIGINS?"),
        ("EVENTSTREAM_CHANNEL_MANAGER_CLASS", "Did you mean EVENTSTREAM_CHANNELMANAGER_CLASS?"),
        ("EVENTSTREAM_X", "Remove it."),
    ],
)
def test_unknown_setting_is_a_warning_with_a_suggestion(settings, name, hint):
    message = check_one(settings, name, 1)
    assert message.hint == hint
    assert_error(message, "W001", f"{name} is no setting of django-eventstream.", hint)


def test_settings_of_other_packages_are_none_of_our_business(settings):
    settings.EVENTSTREAMS = settings.MY_EVENTSTREAM_X = 1
    assert check_settings() == []


def test_settings_of_version_5_are_known(settings):
    settings.EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.RedisStorage"
    settings.EVENTSTREAM_REDIS = settings.EVENTSTREAM_STORAGE_CONNECTION = {"host": "localhost"}
    assert check_settings() == []


# Read at use

OVERRIDES = {
    "storage_class": ("tests.storages.MemoryStorage", "tests.storages.MemoryStorage"),
    "channelmanager_class": ("a.B", "a.B"),
    "broker": ("redis", ["redis"]),
    "redis": ("redis://localhost", "redis://localhost"),
    "storage_connection": ({"port": 1}, {"port": 1}),
    "channel_limit": (3, 3),
    "padding": (0, 0),
    "keep_alive_interval": (1, 1.0),
    "retry_delay": (0, 0.0),
    "send_timeout": (1, 1.0),
    "max_stream_age": (60, 60.0),
    "clean_shutdown": (False, False),
    "retention": (60, 60.0),
    "max_events_per_channel": (7, 7),
    "poll_interval": (0.5, 0.5),
    "page_size": (1, 1),
    "read_timeout": (0, 0.0),
    "database_threads": (1, 1),
    "buffer_size": (0, 0),
    "burst_size": (1, 1),
    "grip_interval": (5, 5.0),
    "allow_origins": ("a.org", ["a.org"]),
    "allow_credentials": (True, True),
    "allow_headers": ("X-A, X-B", ["X-A", "X-B"]),
}


def test_every_setting_is_tried_below():
    properties = [name for name, value in vars(Settings).items() if isinstance(value, property)]
    assert list(OVERRIDES) == properties


@pytest.mark.parametrize("name", OVERRIDES)
def test_setting_is_read_when_it_is_used(settings, name):
    value, read = OVERRIDES[name]
    setting = f"EVENTSTREAM_{name.upper()}"
    if hasattr(settings, setting):
        delattr(settings, setting)
    default = getattr(conf.settings, name)
    assert default == getattr(_Untouched(), name) != read
    setattr(settings, setting, value)
    found = getattr(conf.settings, name)
    assert found == read
    assert type(found) is type(read)


def test_storage_and_channel_manager_follow_their_settings(settings):
    settings.EVENTSTREAM_STORAGE_CLASS = "tests.storages.MemoryStorage"
    first = get_storage()
    assert type(first) is MemoryStorage
    assert get_storage() is first
    settings.EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
    assert type(get_storage()) is DjangoModelStorage
    settings.EVENTSTREAM_STORAGE_CLASS = None
    assert get_storage() is None
    for cls in (DefaultChannelManager, Another):
        settings.EVENTSTREAM_CHANNELMANAGER_CLASS = f"{cls.__module__}.{cls.__name__}"
        assert type(get_channelmanager()) is cls
