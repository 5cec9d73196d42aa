"""Samples as padded or packed tensors: one micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count

import numpy as np
import torch
from torch import Tensor

from services.learner.step.payloads import TrainingSample

_PER_TOKEN = ("behaviour", "proximal", "advantages", "reference", "values", "returns")
"""What a sample has for each response token, in the order of MicroBatch's fields."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """`ids` [rows, width], padded with 0 on the right, or [1, total] where they are packed: the rows end to end, and
    `position_ids` of the same shape, which start at 0 with each. The rest speaks of response tokens, [rows, longest
    response].

    `positions` and `targets` [n] list the n masked tokens in row order: the flat position in `ids` that predicts each,
    and the token itself. An empty micro-batch has one row and no masked token. `values` and `returns` are 0 where there
    is no value network, `reference` where there is no reference model.
    """

    ids: Tensor
    position_ids: Tensor | None
    positions: Tensor
    targets: Tensor
    mask: Tensor
    behaviour: Tensor
    proximal: Tensor
    advantages: Tensor
    reference: Tensor
    values: Tensor
    returns: Tensor

    def padded(self, values: Tensor) -> Tensor:
        """Values [n] of the masked tokens at their places in [rows, longest response]; 0 elsewhere."""
        return torch.zeros_like(self.behaviour).masked_scatter(self.mask, values)


def collate(samples: Sequence[TrainingSample], device: torch.device, *, packed: bool = False) -> MicroBatch:
    """Padded rows, or, `packed`, one row of the samples end to end."""
    lengths = [len(sample.ids) for sample in samples]
    rows, width = max(1, len(samples)), max([2, *lengths])
    longest = max([1, *(sample.response_tokens for sample in samples)])
    shape = (1, max(2, sum(lengths))) if packed else (rows, width)
    ids = np.zeros(shape, dtype=np.int64)
    position_ids = np.arange(shape[1])
    mask = np.zeros((rows, longest), dtype=bool)
    per_token = np.zeros((len(_PER_TOKEN), rows, longest), dtype=np.float32)
    first = np.zeros((rows, 1), dtype=np.int64)
    starts = accumulate(lengths, initial=0) if packed else count(0, width)
    for row, (start, sample) in enumerate(zip(starts, samples, strict=False)):
        place = slice(start, start + len(sample.ids))
        ids.reshape(-1)[place] = sample.ids
        if packed:
            position_ids[place] = np.arange(len(sample.ids))
        mask[row, : sample.response_tokens] = sample.mask
        for field, name in enumerate(_PER_TOKEN):
            per_token[field, row, : sample.response_tokens] = getattr(sample, name)
        first[row] = start + sample.prompt_tokens
    # Response token t of a row stands at first + t and is predicted one position earlier.
    flat = (first + np.arange(longest))[mask]
    arrays = (flat - 1, ids.reshape(-1)[flat], mask, *per_token)
    return MicroBatch(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(position_ids[None]).to(device) if packed else None,
        *(torch.from_numpy(array).to(device) for array in arrays),
    )
