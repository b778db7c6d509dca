# ruff: noqa: RUF012 (as Django writes migrations)
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="message",
            name="key",
            field=models.CharField(max_length=64, null=True),
        ),
        migrations.AddConstraint(
            model_name="message",
            constraint=models.UniqueConstraint(fields=("room", "key"), name="chat_key_in_room"),
        ),
    ]
