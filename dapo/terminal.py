"""Text that a model wrote, made harmless and short enough for a terminal."""

import unicodedata

from rich.text import Text

_MAX_LINES = 12


def visible(text: str) -> str:
    """Every character that could steer a terminal or hide from the eye (escape codes, carriage returns, changes of
    direction, zero width) becomes its escape, e.g. `\\x1b`; line ends, tabs and all kinds of spaces stay."""
    return text if text.isprintable() else "".join(map(_visible_character, text))


def _visible_character(char: str) -> str:
    if char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode()


def shorten(text: str, characters: int) -> str:
    """A third from the beginning, two thirds from the end, where answers stand; by lines, then by characters."""
    lines = text.split("\n")
    if len(lines) > _MAX_LINES:
        head = _MAX_LINES // 3
        tail = _MAX_LINES - head
        left_out = len(lines) - head - tail
        text = "\n".join([*lines[:head], f"[… {left_out:,} lines …]", *lines[-tail:]])
    if len(text) > characters:
        head = characters // 3
        tail = characters - head
        text = f"{text[:head]} [… {len(text) - head - tail:,} characters …] {text[-tail:]}"
    return text


def one_line(text: str, characters: int, style: str = "") -> Text:
    """The beginning, with every white space a single space."""
    words = " ".join(text[: 4 * characters].split())
    return Text(visible(words if len(words) <= characters else words[: characters - 1] + "…"), style)
