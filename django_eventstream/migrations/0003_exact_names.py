"""Channel names that differ in case, accents or trailing spaces are different channels.

MySQL's and MariaDB's usual collations compare them as equal. The other databases compare
exactly as they are.
"""

from django.db import migrations, models


def compare_exactly(apps, schema_editor):
    connection = schema_editor.connection
    if connection.vendor != "mysql":
        return
    # The binary collations without PAD SPACE: in the others, "a" = "a ".
    collation = "utf8mb4_nopad_bin" if connection.mysql_is_mariadb else "utf8mb4_0900_bin"
    Event = apps.get_model("django_eventstream", "Event")
    EventCounter = apps.get_model("django_eventstream", "EventCounter")
    quote = schema_editor.quote_name
    event_table = quote(Event._meta.db_table)
    counter_table = quote(EventCounter._meta.db_table)
    # Names that share a counter until now get one each. It goes on where the shared one is, for
    # there version 5.3.4 told their clients that they were: behind it, on a counter of their own
    # events only, they would miss what comes before that number.
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT MIN(e.channel), MAX(c.value) FROM {event_table} e"
            f" JOIN {counter_table} c ON c.name = e.channel GROUP BY BINARY e.channel"
        )
        shared = dict(cursor.fetchall())
    for table, column in ((event_table, "channel"), (counter_table, "name")):
        schema_editor.execute(
            f"ALTER TABLE {table} MODIFY {quote(column)} varchar(255) "
            f"CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL"
        )
    using = connection.alias
    counters = set(EventCounter.objects.using(using).values_list("name", flat=True))
    EventCounter.objects.using(using).bulk_create(
        EventCounter(name=name, value=value)
        for name, value in shared.items()
        if name not in counters
    )


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("django_eventstream", "0002_pending_and_skipped")]
    operations = [migrations.RunPython(compare_exactly, migrations.RunPython.noop)]
