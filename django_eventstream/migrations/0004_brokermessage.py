"""Messages between processes, for the database broker."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_eventstream", "0003_exact_names")]
    operations = [
        migrations.CreateModel(
            name="BrokerMessage",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("text", models.TextField()),
                ("created", models.DateTimeField(auto_now_add=True, db_index=True)),
            ],
        ),
    ]
