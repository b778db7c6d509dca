import unicodedata

from django import forms
from django.core.exceptions import ValidationError


def validate_room(name):
    # Marks too: in many scripts they are parts of letters.
    if not all(char in "-_" or unicodedata.category(char)[0] in "LMN" for char in name):
        raise ValidationError("A room's name has only letters, digits, hyphens and underscores.")
    # Clients name the room's channel themselves, and channels are compared exactly.
    if name != unicodedata.normalize("NFC", name):
        raise ValidationError("Write the room's name in Unicode's composed form, NFC.")


def validate_nickname(name):
    if not name.isprintable():
        raise ValidationError("A nickname has only printable characters.")


class RoomField(forms.CharField):
    """A room's name as people type it: "Tea room" is the room ``Tea-room``."""

    def to_python(self, value):
        return "-".join(unicodedata.normalize("NFC", super().to_python(value)).split())


class JoinForm(forms.Form):
    user = forms.CharField(label="Nickname", max_length=30, validators=[validate_nickname])
    room = RoomField(label="Room", max_length=64, validators=[validate_room])


class RoomForm(forms.Form):
    """A room's name as programs give it: exactly."""

    room = forms.CharField(max_length=64, strip=False, validators=[validate_room])


class HistoryForm(forms.Form):
    before = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1)


class MessageForm(forms.Form):
    from_ = forms.CharField(max_length=30, validators=[validate_nickname])
    text = forms.CharField(max_length=2000)
    key = forms.CharField(max_length=64, required=False)

    def add_prefix(self, field_name):
        # "from" is a word of Python's, and cannot name the attribute.
        return field_name.rstrip("_")
