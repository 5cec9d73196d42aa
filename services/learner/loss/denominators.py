"""What a mini-batch's loss is divided by (DAPO, arXiv 2503.14476, equation 12: the token mean)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Denominators:
    """Tokens and sequences in the loss of one mini-batch, over all micro-batches and ranks."""

    tokens: int
    sequences: int

    @classmethod
    def count(cls, indices: Iterable[int], loss_tokens: Sequence[int]) -> "Denominators":
        """`loss_tokens[i]` is the number of tokens of sample i in the loss; 0 takes it out of both counts."""
        tokens = [loss_tokens[i] for i in indices if loss_tokens[i] > 0]
        return cls(tokens=sum(tokens), sequences=len(tokens))
