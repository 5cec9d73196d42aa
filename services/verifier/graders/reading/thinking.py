"""What a response says outside its thinking. Takes time linear in the text."""

import re
from functools import lru_cache


def without_thinking(text: str, tags: tuple[str, str], begun: str = "") -> str | None:
    """`text` without what stands between the opening and the closing tag; None where a block is not closed.

    The tags are found in upper and lower case. A block may have been opened by the prompt, in what it has `begun` of
    the response. A closing tag without an opening one ends such a block, too: nothing before it is read. A text without
    tags is returned as it stands.
    """
    lower, (opening, closing) = text.lower(), _in_lower_case(tags)
    if begun and begun.lower().rfind(opening) > begun.lower().rfind(closing):
        text, lower = tags[0] + text, opening + lower
    if opening not in lower and closing not in lower:
        return text
    found = _tags(tags).finditer(text)
    said: list[str] = []
    end = 0
    thinking = False
    for tag in found:
        if tag[1]:
            if not thinking:
                said.append(text[end : tag.start()])
            thinking = True
        else:
            if not thinking:
                said.clear()
            thinking, end = False, tag.end()
    return None if thinking else "".join((*said, text[end:])).strip()


@lru_cache(64)
def _in_lower_case(tags: tuple[str, str]) -> tuple[str, str]:
    return tags[0].lower(), tags[1].lower()


@lru_cache(64)
def _tags(tags: tuple[str, str]) -> re.Pattern[str]:
    opening, closing = map(re.escape, tags)
    return re.compile(f"({opening})|{closing}", re.IGNORECASE)
