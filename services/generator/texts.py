"""Token ids to the text that graders read, and where a stop string ends a response."""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dapo.contracts.prompts import last_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD_TOKENS = 64
"""A word has fewer; white space behind it counts, too."""


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Tokens that the tokenizer calls special, whatever their name."""
    flagged = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return flagged | set(tokenizer.all_special_ids)


class ReadResponse(NamedTuple):
    text: str
    """What graders read: up to and with the first stop string."""
    tokens: int
    """The response's tokens, up to and with the one that completes the stop string."""
    stopped: bool
    """Whether it holds a stop string."""


class ResponseReader:
    """Reads responses with one tokenizer.

    Stop strings are looked for in the text with every token in it, a special one too. `hidden` ids are then left out of
    what graders read. Where a stop string ends within a token, the token belongs to the response as a whole, and the
    rest of its characters is not read.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, hidden: Collection[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._hidden = frozenset(hidden)
        self._stop = tuple(stop)

    def read(self, responses: Sequence[Sequence[int]]) -> list[ReadResponse]:
        counts, beyond = [len(ids) for ids in responses], [0] * len(responses)
        stopped = [at for at, text in enumerate(self._decode(responses)) if self._ends(text)] if self._stop else []
        for at in stopped:
            counts[at], beyond[at] = self._cut(responses[at])
        kept = [ids[:count] for ids, count in zip(responses, counts, strict=True)]
        texts = self._decode([[token for token in ids if token not in self._hidden] for ids in kept])
        return [
            ReadResponse(text[: len(text) - beyond[at]], counts[at], at in stopped) for at, text in enumerate(texts)
        ]

    def last_words(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Of each prompt as the model reads it."""
        return [last_word(text) for text in self._decode([ids[-_WORD_TOKENS:] for ids in prompts])]

    def _cut(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many of `ids` it takes until their text holds a stop string, which that of all `ids` does, and how many
        characters that graders read lie beyond it."""
        counts = range(1, len(ids))
        count = 1 + bisect_left(counts, True, key=lambda tokens: bool(self._ends(self._decode([ids[:tokens]])[0])))
        (text,) = self._decode([ids[:count]])
        return count, 0 if ids[count - 1] in self._hidden else len(text) - min(self._ends(text))

    def _ends(self, text: str) -> list[int]:
        """Where each of the stop strings in it ends for the first time."""
        return [at + len(stop) for stop in self._stop if (at := text.find(stop)) >= 0]

    def _decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(list(responses), skip_special_tokens=False)
        return texts
