"""The event log's tables, as version 5.3.4 laid them out, and what is new."""

from __future__ import annotations

from django.db import models


class EventCounter(models.Model):
    """How far the ids of a channel have counted."""

    id = models.AutoField(primary_key=True, serialize=False, verbose_name="ID")
    name = models.CharField(max_length=255, unique=True)
    value = models.BigIntegerField(default=0)
    updated = models.DateTimeField(auto_now=True, db_index=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class Event(models.Model):
    """One stored event."""

    id = models.BigAutoField(primary_key=True, serialize=False, verbose_name="ID")
    channel = models.CharField(max_length=255, db_index=True)
    type = models.CharField(max_length=255, db_index=True)
    #: A JSON string of the encoded data.
    data = models.TextField()
    #: The event's id on its channel. NULL: its transaction has not been numbered yet. 0: a
    #: placeholder of version 5.3.4, no event.
    eid = models.BigIntegerField(null=True, default=None, db_index=True)
    created = models.DateTimeField(auto_now_add=True, db_index=True)
    #: A JSON list of the ids (as text) of users who must not get the event; NULL: nobody.
    skip_user_ids = models.TextField(null=True, default=None)

    class Meta:
        unique_together = (("channel", "eid"),)

    def __str__(self) -> str:
        return f"{self.channel}:{self.eid} {self.type}"


class BrokerMessage(models.Model):
    """A message that the database broker carries: a kick, or an event that is not stored."""

    id = models.BigAutoField(primary_key=True)
    #: ``messages.Envelope.text``.
    text = models.TextField()
    created = models.DateTimeField(auto_now_add=True, db_index=True)

    def __str__(self) -> str:
        return f"{self.id}"
