"""Streams of a run service, out of the bytes that come: files, lines of a log, and server-sent events."""

import codecs
import json
from collections.abc import Iterator

from dapo.client.answers.runs import RunEvent
from dapo.client.errors import ServiceError


class BytesDecoder:
    """What comes, as it comes."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def end(self) -> Iterator[bytes]:
        return iter(())


class LineDecoder:
    """Lines of UTF-8 text, without their ends. A line ends at a line feed alone: a log may hold every other mark.

    NULs are left out: a service sends them as signs of life.
    """

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._open: list[str] = []
        """Of the line that has not ended."""

    def feed(self, data: bytes) -> Iterator[str]:
        return self._lines(self._text.decode(data.replace(b"\0", b"")))

    def end(self) -> Iterator[str]:
        yield from self._lines(self._text.decode(b"", final=True))
        if self._open:
            yield "".join(self._open)

    def _lines(self, text: str) -> Iterator[str]:
        *ended, rest = text.split("\n")
        for line in ended:
            yield "".join([*self._open, line])
            self._open = []
        if rest:
            self._open.append(rest)


class EventDecoder:
    """Server-sent events (HTML standard, section 9.2); one that the stream's end cuts short is dropped."""

    def __init__(self) -> None:
        self._lines = LineDecoder()
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[RunEvent]:
        for line in self._lines.feed(data):
            if (event := self._line(line.removesuffix("\r"))) is not None:
                yield event

    def end(self) -> Iterator[RunEvent]:
        return iter(())

    def _line(self, line: str) -> RunEvent | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data" and "data" in self._fields:
                value = f"{self._fields['data']}\n{value}"
            self._fields[name] = value  # A comment has no name, and nobody asks for that.
            return None
        fields, self._fields = self._fields, {}
        return _event(fields) if "data" in fields else None


def _event(fields: dict[str, str]) -> RunEvent:
    try:
        return RunEvent(fields["id"], fields["event"], json.loads(fields["data"]))
    except (KeyError, ValueError) as error:
        raise ServiceError(f"the run service sent what is no event: {error}") from error
