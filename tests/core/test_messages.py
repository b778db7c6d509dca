"""Envelopes: what brokers carry as a text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_eventstream.event import Event
from django_eventstream.messages import (
    Envelope,
    Gap,
    Published,
    Revoked,
    Stored,
    Tally,
    Unreadable,
)
from django_eventstream.sse import clean_field

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = st.integers(1, 2**63 - 1)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
types = texts.map(clean_field)
events = st.builds(Event, names, types, texts, st.none() | ids, st.frozensets(texts, max_size=3))
messages = st.one_of(
    st.builds(Published, events),
    st.builds(Stored, names, ids),
    st.builds(Revoked, st.none() | texts, names),
    st.builds(Gap, st.none() | texts),
    st.builds(Tally, st.dictionaries(texts, st.tuples(ids, st.floats(0, 1e6)), max_size=3)),
)


@given(messages, texts, st.none() | ids)
def test_what_is_sent_is_what_is_received(message, sender, sequence):
    envelope = Envelope(message, sender, sequence, 0.0 if sequence is None else 1.5)
    assert Envelope.from_text(envelope.text) == envelope
    assert Envelope.from_text(envelope.text.encode()) == envelope


def test_the_text_is_made_once():
    envelope = Envelope(Published(Event("a", "message", "1")), "me", 1)
    assert envelope.text is envelope.text


VALID = {
    **{"from": "me", "channel": "a", "kind": "published", "type": "t", "data": "d", "id": 1},
    **{"skip": ["7"], "user": None},
}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", '"text"', "7", b"\xff", "[" * 100_000),
        *(
            json.dumps({name: VALID[name] for name in VALID if name != gone})
            for gone in VALID
            if gone not in ("id", "skip", "user")
        ),
        *(
            json.dumps({**VALID, **wrong})
            for wrong in [
                *({"kind": "other"}, {"kind": None}, {"channel": 7}, {"channel": None}),
                *({"from": 7}, {"type": None}, {"data": {}}, {"id": "1"}, {"id": True}),
                *({"id": 1.5}, {"skip": 7}, {"skip": [7]}, {"sequence": "1"}, {"pause": "now"}),
                *({"kind": "stored", "id": None}, {"kind": "revoked", "user": 7}),
                *({"kind": "gap", "channel": []}, {"kind": "tally", "counts": []}),
                *({"kind": "tally", "counts": {"a": 1}}, {"kind": "tally", "counts": {"a": [1]}}),
            ]
        ),
    ],
)
def test_what_is_no_message_is_unreadable(text):
    with pytest.raises(Unreadable, match="not a message of this version"):
        Envelope.from_text(text)
