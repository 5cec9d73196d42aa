"""What the text of one response says about how the policy writes: repetition, reflection, and whether it is new."""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

_NGRAM_WORDS = 4


class TextStatistics(NamedTuple):
    fingerprint: int
    repetition: float
    reflection: bool


def measure_text(text: str, reflection_patterns: Sequence[str]) -> TextStatistics:
    """All three of one response. `reflection_patterns` are regular expressions, as the spec has checked them."""
    return TextStatistics(fingerprint(text), repetition_rate(text), has_reflection(text, reflection_patterns))


def fingerprint(text: str) -> int:
    """A 64-bit hash of the text, the same on every machine."""
    # A lone surrogate cannot be encoded otherwise.
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def repetition_rate(text: str) -> float:
    """Share of the word 4-grams that occurred before in the same text, in [0, 1); 0 for fewer than five words.

    1 − distinct / all: seq-rep-4 of Welleck et al. (arXiv 1908.04319), over words parted by white space where they
    count tokens.
    """
    words = text.split()
    count = len(words) - _NGRAM_WORDS + 1
    if count < 1:
        return 0.0
    ngrams = zip(*(words[start:] for start in range(_NGRAM_WORDS)), strict=False)
    return 1 - len(set(ngrams)) / count


def has_reflection(text: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` is found anywhere, in upper or lower case: signs of checking and going back, as in
    DAPO's case study (arXiv 2503.14476 section 4.4)."""
    return any(pattern.search(text) for pattern in _compiled(tuple(patterns)))


@lru_cache(maxsize=8)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)
