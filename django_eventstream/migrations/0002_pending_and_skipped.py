"""Events that wait for their number, and users who must not get an event.

Both columns are nullable, so that processes of version 5.3.4, which do not know them, keep
writing rows while a deployment rolls over.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_eventstream", "0001_initial")]
    operations = [
        migrations.AlterField(
            model_name="event",
            name="eid",
            field=models.BigIntegerField(db_index=True, default=None, null=True),
        ),
        migrations.AddField(
            model_name="event",
            name="skip_user_ids",
            field=models.TextField(default=None, null=True),
        ),
    ]
