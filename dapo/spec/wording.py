"""How values are written in messages, tables and YAML."""

from typing import Any

from dapo.redaction import names_secret, redact_url

SHOWN_CHARACTERS = 80


def float_text(value: float) -> str:
    """The shortest text that reads back as the same float: 1e-6, 0.28, 1.0."""
    mantissa, mark, exponent = repr(value).partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else mantissa


def scalar_text(value: Any) -> str:
    """A scalar, or a short list, as one would write it in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_part_text, value))}]"
    return str(value)


def _part_text(value: Any) -> str:
    """In a list, text needs its quotes: it may hold commas and brackets."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else scalar_text(value)


def shown(value: Any) -> str | None:
    """A refused value in one short line, URLs redacted; None for a mapping, which has no short form."""
    if isinstance(value, dict):
        return None
    if isinstance(value, (list, tuple)) and any(isinstance(part, (list, tuple, dict)) for part in value):
        return f"a list of {len(value)}"
    words = scalar_text(value).split()
    text = printable(" ".join(redact_url(word) if "://" in word else word for word in words))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def printable(text: str) -> str:
    """Text that can be encoded: lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown_given(field: str, value: object) -> str | None:
    """What stands in a field of a request, as it may be repeated: None where nothing does, or where the field is called
    as those are that hold secrets."""
    return None if value is None or names_secret(field.rpartition(".")[2]) else shown(value)
