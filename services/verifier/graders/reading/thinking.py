"""What a response says outside its thinking. Takes time linear in the text."""

import re
from functools import lru_cache


def without_thinking(text: str, tags: tuple[str, str], begun: str = "") -> str | None:
    """`text` without what stands between the opening and the closing tag; None where a block is not closed.

    The tags are found in upper and lower case; one in quotes or backticks, "`<think>`", is spoken of and is none. A
    block may have been opened by the prompt, in what it has `begun` of the response. A closing tag without an opening
    one ends such a block, too: nothing before it is read. A text without tags is returned as it stands.
    """
    thinking = any(tag["opening"] for tag in _found(begun, tags)[-1:])
    found = _found(text, tags)
    if not found and not thinking:
        return text
    said: list[str] = []
    end = 0
    for tag in found:
        if tag["opening"]:
            if not thinking:
                said.append(text[end : tag.start()])
            thinking = True
        else:
            if not thinking:
                said.clear()
            thinking, end = False, tag.end()
    return None if thinking else "".join((*said, text[end:])).strip()


def _found(text: str, tags: tuple[str, str]) -> list[re.Match[str]]:
    """The tags in it, in order."""
    lower = text.lower()
    if not any(tag in lower for tag in _in_lower_case(tags)):  # many times as fast as the search
        return []
    return [tag for tag in _tags(tags).finditer(text) if not tag["quote"]]


@lru_cache(64)
def _in_lower_case(tags: tuple[str, str]) -> tuple[str, str]:
    return tags[0].lower(), tags[1].lower()


@lru_cache(64)
def _tags(tags: tuple[str, str]) -> re.Pattern[str]:
    opening, closing = map(re.escape, tags)
    return re.compile(
        f"(?P<quote>[`\"'])(?:{opening}|{closing})(?P=quote)|(?P<opening>{opening})|{closing}", re.IGNORECASE
    )
