"""Lines and events come back whole, however the bytes are cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.client import RunEvent, ServiceError
from dapo.client.exchange import Decoder
from dapo.client.streams import EventDecoder, LineDecoder

# A NUL is a sign of life: a service puts none into a line.
LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\0")))
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
EVENTS = st.lists(st.builds(RunEvent, WORDS, WORDS, st.dictionaries(st.text(), st.integers() | st.text())))


def read(decoder: Decoder, data: bytes, cuts: list[int]) -> list:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    return [one for piece in pieces for one in decoder.feed(piece)] + list(decoder.end())


@given(LINES, st.lists(st.integers(0, 1000)))
def test_lines_come_back_however_they_are_cut(lines: list[str], cuts: list[int]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    assert read(LineDecoder(), text.encode(), cuts) == lines
    if lines and lines[-1]:
        assert read(LineDecoder(), text[:-1].encode(), cuts) == lines


def test_what_is_no_utf8_is_shown_as_such() -> None:
    assert read(LineDecoder(), b"a\xff\nb\xc3", [1]) == ["a\ufffd", "b\ufffd"]


@given(EVENTS, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.lists(st.integers(0, 1000)))
def test_events_come_back_however_they_are_cut(events: list[RunEvent], end: str, ascii: bool, cuts: list[int]) -> None:
    def text(event: RunEvent) -> str:
        *data, last = json.dumps(event.data, ensure_ascii=ascii, indent=1).split("\n")
        fields = [f"id: {event.id}", f"event:{event.kind}", *(f"data: {line}" for line in data), f"data: {last}"]
        return "".join(f"{line}{end}" for line in [": nothing new", "", *fields, ""])

    whole = "".join(map(text, events)).encode()
    assert read(EventDecoder(), whole, cuts) == events
    assert read(EventDecoder(), whole + b'id: 9-0\nevent: step\ndata: {"cut', cuts) == events


@pytest.mark.parametrize("sent", ["id: 1-0\ndata: {}\n\n", "id: 1-0\nevent: step\ndata: {\n\n"])
def test_what_is_no_event_is_an_error(sent: str) -> None:
    with pytest.raises(ServiceError, match="is no event"):
        read(EventDecoder(), sent.encode(), [])
