"""Which ids of a model's output a policy may sample: the generator and the learner must agree on them.

Models have more ids than their tokenizer has tokens (Qwen2.5: 151,936 and 151,665), so that the vocabulary divides
well. An id without a token has a probability all the same, and no text.
"""

from collections.abc import Iterable, Sequence

MASKED_LOGIT = -1e9
"""Logit of an id that must not be sampled. Its probability is exactly 0; with −∞ an entropy would be NaN."""


def end_ids(*sources: int | Sequence[int] | None) -> tuple[int, ...]:
    """End-of-sequence ids of all sources, each once, in ascending order."""
    found: set[int] = set()
    for source in sources:
        if source is not None:
            found.update([source] if isinstance(source, int) else source)
    return tuple(sorted(found))


def tokenless_ids(tokens: Iterable[int], vocabulary: int, ends: Iterable[int]) -> tuple[int, ...]:
    """Ids of a model's `vocabulary` that are none of the tokenizer's `tokens`, in ascending order.

    `ends` are not among them: a model may end its responses with an id that its tokenizer does not know.
    """
    return tuple(sorted(set(range(vocabulary)).difference(tokens, ends)))
