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
    for model, column in ((Event, "channel"), (EventCounter, "name")):
        schema_editor.execute(
            f"ALTER TABLE {quote(model._meta.db_table)} MODIFY {quote(column)} varchar(255) "
            f"CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL"
        )
    # Names that shared a counter until now: each goes on behind its own latest event.
    using = connection.alias
    counters = set(EventCounter.objects.using(using).values_list("name", flat=True))
    latest = Event.objects.using(using).values("channel").annotate(latest=models.Max("eid"))
    EventCounter.objects.using(using).bulk_create(
        EventCounter(name=row["channel"], value=row["latest"] or 0)
        for row in latest.order_by()
        if row["channel"] not in counters
    )


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("django_eventstream", "0002_pending_and_skipped")]
    operations = [migrations.RunPython(compare_exactly, migrations.RunPython.noop)]
