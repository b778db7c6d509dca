"""Upgrading from version 5.3.4: with ``migrate``, and while its processes run on."""

import json
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from django_eventstream import get_current_event_id, models, send_event
from django_eventstream.event import Event
from django_eventstream.exceptions import EventDoesNotExist
from django_eventstream.storage import DjangoModelStorage

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

APP = "django_eventstream"
TABLES = [f"{APP}_event", f"{APP}_eventcounter"]


def migrate(name=None):
    """Migrate the package's tables to a migration, by default the latest."""
    executor = MigrationExecutor(connection)
    if name is None:
        targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == APP]
    else:
        targets = [(APP, name)]
    executor.migrate(targets)


def remove_tables():
    executor = MigrationExecutor(connection)
    if executor.loader.applied_migrations.keys() & executor.loader.graph.nodes.keys():
        for table in set(TABLES) & set(connection.introspection.table_names()):
            execute(f"DELETE FROM {table}")
    executor.migrate([(APP, None)])


@pytest.fixture
def tables_of_version_5(transactional_db):
    """Give the database the tables that 5.3.4 made; the latest ones afterwards."""
    try:
        remove_tables()
        migrate("0001_initial")
        yield
    finally:
        remove_tables()
        migrate()


def execute(statement, *values):
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


class Version5:
    """A process of version 5.3.4: the statements of its models, by themselves."""

    def send(self, channel, text, event_type="message", created=None):
        """Do what ``send_event`` stored; return the event's id."""
        now = _time(created or timezone.now())
        rows = execute(f"SELECT id FROM {APP}_eventcounter WHERE name = %s", channel)
        if not rows:
            execute(
                f"INSERT INTO {APP}_eventcounter (name, value, updated) VALUES (%s, %s, %s)",
                *(channel, 0, now),
            )
            rows = execute(f"SELECT id FROM {APP}_eventcounter WHERE name = %s", channel)
        ((counter,),) = rows
        lock = " FOR UPDATE" if connection.features.has_select_for_update else ""
        with transaction.atomic():
            ((name, value),) = execute(
                f"SELECT name, value FROM {APP}_eventcounter WHERE id = %s{lock}", counter
            )
            if value == 0:  # a placeholder, to enable querying from id 0
                self._insert(channel, "", "", 0, now)
            self._insert(channel, event_type, json.dumps(text), value + 1, now)
            execute(
                f"UPDATE {APP}_eventcounter SET name = %s, value = %s, updated = %s WHERE id = %s",
                *(name, value + 1, now, counter),
            )
        return value + 1

    def _insert(self, *values):
        execute(
            f"INSERT INTO {APP}_event (channel, type, data, eid, created)"
            " VALUES (%s, %s, %s, %s, %s)",
            *values,
        )

    def get_current_id(self, channel):
        rows = execute(f"SELECT value FROM {APP}_eventcounter WHERE name = %s", channel)
        return rows[0][0] if rows else 0

    def get_events(self, channel, last_id):
        """Return ids and data of what follows; None for what made 5.3.4 reset the client."""
        rows = execute(
            f"SELECT eid, data FROM {APP}_event WHERE channel = %s AND eid >= %s ORDER BY eid",
            *(channel, last_id),
        )
        if not rows or rows[0][0] != last_id:
            return None
        return [(eid, json.loads(data)) for eid, data in rows[1:]]

    def trim(self):
        cutoff = _time(timezone.now() - timedelta(days=1))
        rows = execute(f"SELECT id FROM {APP}_event WHERE created < %s", cutoff)
        for (key,) in rows:
            execute(f"DELETE FROM {APP}_event WHERE id IN (%s)", key)
        return len(rows)


def _time(value):
    return connection.ops.adapt_datetimefield_value(value)


def columns(table):
    """Return the type of each column, and whether it may be NULL."""
    introspection = connection.introspection
    with connection.cursor() as cursor:
        return {
            column.name: (introspection.get_field_type(column.type_code, column), column.null_ok)
            for column in introspection.get_table_description(cursor, table)
        }


def indexes(table):
    """Return the columns that are indexed together, and whether they are unique."""
    found = {}
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, table)
    for constraint in constraints.values():
        # PostgreSQL has a second index on texts, for LIKE.
        unique = constraint["unique"] or constraint["primary_key"]
        if unique or constraint["index"]:
            key = tuple(constraint["columns"])
            found[key] = found.get(key, False) or unique
    return found


# The tables

COLUMNS = {
    f"{APP}_event": {
        "id": ("AutoField", False),
        "channel": ("CharField", False),
        "type": ("CharField", False),
        "data": ("TextField", False),
        "eid": ("BigIntegerField", False),
        "created": ("DateTimeField", False),
    },
    f"{APP}_eventcounter": {
        "id": ("AutoField", False),
        "name": ("CharField", False),
        "value": ("BigIntegerField", False),
        "updated": ("DateTimeField", False),
    },
}
INDEXES = {
    f"{APP}_event": {
        ("id",): True,
        ("channel",): False,
        ("type",): False,
        ("eid",): False,
        ("created",): False,
        ("channel", "eid"): True,
    },
    f"{APP}_eventcounter": {("id",): True, ("name",): True, ("updated",): False},
}


@pytest.mark.usefixtures("tables_of_version_5")
def test_first_migration_makes_the_tables_of_version_5():
    for table in TABLES:
        assert columns(table) == COLUMNS[table]
        assert indexes(table) == INDEXES[table]


@pytest.mark.usefixtures("tables_of_version_5")
def test_later_migrations_only_add_and_widen():
    migrate()
    event, counter = TABLES
    assert columns(counter) == COLUMNS[counter]
    # SQLite's keys have 64 bits whatever they are called.
    key = COLUMNS[event]["id"] if connection.vendor == "sqlite" else ("BigAutoField", False)
    assert columns(event) == {
        **COLUMNS[event],
        "id": key,
        "eid": ("BigIntegerField", True),
        "skip_user_ids": ("TextField", True),
    }
    for table in TABLES:
        assert indexes(table) == INDEXES[table]


def test_keys_go_on_beyond_32_bits():
    last = models.Event.objects.create(id=2**31 + 7, channel="a", type="m", data='"1"', eid=1)
    models.EventCounter.objects.create(name="a", value=1)
    go_on_behind_the_last_key()
    try:
        assert send_event("a", "m", 2).id == 2
        assert models.Event.objects.get(eid=2).pk > last.pk
    finally:
        models.Event.objects.all().delete()
        go_on_behind_the_last_key()  # for tests that narrow the column


def go_on_behind_the_last_key():
    for statement in connection.ops.sequence_reset_sql(no_style(), [models.Event]):
        execute(statement)


def test_no_migration_is_missing():
    call_command("makemigrations", APP, check=True, dry_run=True, verbosity=0)


# The rows


@pytest.mark.usefixtures("tables_of_version_5")
def test_log_of_version_5_is_read_and_goes_on():
    old = Version5()
    texts = ['{"n": 1}', "<p>two\nlines</p>", '"\u00e4\U0001f600"']
    for text in texts:
        old.send("room", text)
    old.send("other", "1", "note")

    migrate()

    storage = DjangoModelStorage()
    stored = [Event("room", "message", text, eid) for eid, text in enumerate(texts, 1)]
    assert storage.get_events("room", 0) == stored
    assert storage.get_events("room", 2) == stored[2:]
    assert storage.get_events("other", 0) == [Event("other", "note", "1", 1)]
    assert get_current_event_id(["room", "other", "new"]) == "room:3,other:1,new:0"
    assert storage.poll(["room"]) == ({"room": 3}, [])

    sent = send_event("room", "message", 4, skip_user_ids=[7])
    assert sent.id == 4
    assert storage.get_events("room", 2) == [stored[2], sent]


@pytest.mark.usefixtures("tables_of_version_5")
def test_position_that_version_5_trimmed_is_a_reset():
    old = Version5()
    old.send("room", "1", created=timezone.now() - timedelta(days=2))
    old.send("room", "2")
    assert old.trim() == 2  # the placeholder is one

    migrate()

    storage = DjangoModelStorage()
    with pytest.raises(EventDoesNotExist) as raised:
        storage.get_events("room", 0)
    assert raised.value.current_id == 2
    assert [event.id for event in storage.get_events("room", 1)] == [2]


@pytest.mark.usefixtures("tables_of_version_5")
def test_counter_that_counted_nothing_yet_is_used():
    execute(
        f"INSERT INTO {APP}_eventcounter (name, value, updated) VALUES (%s, %s, %s)",
        *("room", 0, _time(timezone.now())),
    )
    migrate()
    assert DjangoModelStorage().get_events("room", 0) == []
    assert send_event("room", "message", 1).id == 1


@pytest.mark.usefixtures("tables_of_version_5")
def test_no_client_of_similar_names_misses_an_event():
    # MySQL and MariaDB took these for one channel, with one counter.
    names = ["Room", "room", "r\u00f4om", "room "]
    old = Version5()
    stored = {name: [old.send(name, name) for _ in range(2)] for name in names}
    told = {name: old.get_current_id(name) for name in names}

    migrate()

    storage = DjangoModelStorage()
    for name in names:
        # Where 5.3.4 told a client that it is, is the present still, and nothing hides behind it.
        assert storage.get_current_id(name) == told[name]
        assert storage.get_events(name, told[name]) == []
        sent = send_event(name, "message", name)
        assert sent.id == told[name] + 1
        assert storage.get_events(name, told[name]) == [sent]
        # What is stored is read by the exact name, as far as it has no hole.
        (first, second) = stored[name]
        page = storage.get_events(name, first - 1)
        assert {event.data for event in page[:1]} == {name}
        assert (second == first + 1) == (len(page) > 1)
        assert storage.get_current_ids(names)[name] == sent.id


# Processes of both versions


def check_log(channel, texts):
    """Check that the log holds these texts, with ids that count from 1."""
    events = DjangoModelStorage().get_events(channel, 0, 1000)
    assert [(event.id, event.data) for event in events] == list(enumerate(texts, 1))


@pytest.mark.parametrize("first", ["version 5", "version 6"])
def test_both_versions_send_in_turn(first):
    old = Version5()
    for number in range(1, 7):
        if (number % 2 == 1) == (first == "version 5"):
            assert old.send("room", str(number)) == number
        else:
            assert send_event("room", "message", number).id == number
    check_log("room", "123456")
    assert old.get_current_id("room") == 6
    assert old.get_events("room", 1) == [(number, str(number)) for number in range(2, 7)]


def test_version_5_sends_while_an_event_is_pending():
    old = Version5()
    with transaction.atomic():
        assert send_event("room", "message", "pending").id is None
        connection.run_on_commit.clear()  # as if the process were killed here
    assert old.send("room", "first") == 1
    assert old.get_events("room", 0) == [(1, "first")]
    assert old.get_current_id("room") == 1
    assert DjangoModelStorage().poll(["room"])[0] == {"room": 2}
    assert old.send("room", "last") == 3
    check_log("room", ["first", '"pending"', "last"])


def test_version_5_sends_between_a_transaction_and_its_numbering():
    old = Version5()
    with transaction.atomic():
        transaction.on_commit(lambda: old.send("room", "between"))  # the first after the commit
        send_event("room", "message", 1)
        send_event("room", "message", 2)
    check_log("room", ["between", "1", "2"])
    assert old.get_current_id("room") == 3


def test_version_5_trims_what_version_6_sent():
    old = Version5()
    for number in range(1, 4):
        send_event("room", "message", number)
    before = _time(timezone.now() - timedelta(days=2))
    execute(f"UPDATE {APP}_event SET created = %s WHERE eid < 3", before)
    assert old.trim() == 2
    storage = DjangoModelStorage()
    with pytest.raises(EventDoesNotExist):
        storage.get_events("room", 0)
    assert [event.id for event in storage.get_events("room", 2)] == [3]
    assert send_event("room", "message", 4).id == 4


def test_version_6_trims_what_version_5_sent():
    old = Version5()
    old.send("room", "1", created=timezone.now() - timedelta(days=2))
    old.send("room", "2")
    DjangoModelStorage().trim()
    assert [event.id for event in DjangoModelStorage().get_events("room", 1)] == [2]
    assert old.get_events("room", 2) == []
    assert old.send("room", "3") == 3
