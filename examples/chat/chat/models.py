from django.db import models


class Room(models.Model):
    """A room exists from its first message on."""

    name = models.CharField(max_length=64, unique=True)

    def __str__(self):
        return self.name


class Message(models.Model):
    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="messages")
    author = models.CharField(max_length=30)
    date = models.DateTimeField(auto_now_add=True)
    text = models.TextField()
    #: Given by clients that send again when no answer comes; the same key is the same message.
    key = models.CharField(max_length=64, null=True)

    class Meta:
        indexes = (models.Index(fields=["room", "-id"], name="chat_newest_in_room"),)
        constraints = (models.UniqueConstraint(fields=["room", "key"], name="chat_key_in_room"),)

    def __str__(self):
        return f"{self.author}: {self.text}"

    def as_data(self):
        """Return the message as clients get it, in the history and in the stream."""
        data = {"id": self.id, "from": self.author, "date": self.date, "text": self.text}
        return data | {"key": self.key} if self.key else data
