"""How values are written in messages, tables and YAML."""

import re
from typing import Any

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
    """A refused value in one short line; None for a mapping, which has no short form."""
    if isinstance(value, dict):
        return None
    if isinstance(value, (list, tuple)) and any(isinstance(part, (list, tuple, dict)) for part in value):
        return f"a list of {len(value)}"
    text = printable(" ".join(scalar_text(value).split()))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def printable(text: str) -> str:
    """Text that can be encoded: lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def redact_url(url: str) -> str:
    """A Redis URL without user name and password, also where it is malformed."""
    url = re.sub(r"^([a-z]*:?//?)?.*@", r"\1***@", url)
    return re.sub(r"(password=)[^&\s]*", r"\1***", url)
