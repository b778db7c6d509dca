"""Keys that do not end at 2,147,483,647, for they count the events of all channels."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_eventstream", "0004_brokermessage")]
    operations = [
        migrations.AlterField(
            model_name="event",
            name="id",
            field=models.BigAutoField(primary_key=True, serialize=False, verbose_name="ID"),
        ),
    ]
