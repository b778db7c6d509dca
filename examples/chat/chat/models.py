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

    class Meta:
        indexes = (models.Index(fields=["room", "-id"], name="chat_newest_in_room"),)

    def __str__(self):
        return f"{self.author}: {self.text}"

    def as_data(self):
        """Return the message as clients get it, in the history and in the stream."""
        return {"id": self.id, "from": self.author, "date": self.date, "text": self.text}
