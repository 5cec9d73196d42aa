"""Keys of trackers are kept out of what people read."""

import os
from collections.abc import Iterator

from dapo.environment import TRACKER_KEYS

_SHORTEST = 4
"""Characters of what is hidden in a text; less would hide words."""


def without_secrets(text: str) -> str:
    """What a library says of its trouble, with `***` for each of the secrets that it repeats."""
    for secret in sorted(_values(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _values() -> Iterator[str]:
    for name in TRACKER_KEYS:
        value = os.environ.get(name, "")
        parts = [part.partition("=")[2].strip() for part in value.split(",")] if name.endswith("HEADERS") else []
        yield from (one for one in (value, *parts) if len(one) >= _SHORTEST)
