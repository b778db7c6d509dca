from django.db import models


class Notice(models.Model):
    text = models.TextField(max_length=2000)
    date = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self):
        return self.text
