"""Samples as padded tensors: one micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.learner.payloads import Sample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """`ids` [rows, width], padded with 0 on the right. The rest speaks of response tokens, [rows, longest response].

    `positions` and `targets` [n] list the n masked tokens in row order: the flat position in `ids` that predicts each,
    and the token itself. An empty micro-batch has one row and no masked token.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    mask: Tensor
    behaviour: Tensor
    proximal: Tensor
    advantages: Tensor

    def padded(self, values: Tensor) -> Tensor:
        """Values [n] of the masked tokens at their places in [rows, longest response]; 0 elsewhere."""
        return torch.zeros_like(self.behaviour).masked_scatter(self.mask, values)

    @property
    def tokens(self) -> int:
        return int(self.ids.numel())


def collate(samples: Sequence[Sample], device: torch.device) -> MicroBatch:
    rows = max(1, len(samples))
    width = max([2, *(len(sample.ids) for sample in samples)])
    longest = max([1, *(sample.response_tokens for sample in samples)])
    ids = np.zeros((rows, width), dtype=np.int64)
    mask = np.zeros((rows, longest), dtype=bool)
    behaviour = np.zeros((rows, longest), dtype=np.float32)
    proximal = np.zeros((rows, longest), dtype=np.float32)
    advantages = np.zeros((rows, 1), dtype=np.float32)
    first = np.zeros((rows, 1), dtype=np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
        mask[row, : sample.response_tokens] = sample.mask
        behaviour[row, : sample.response_tokens] = sample.behaviour
        proximal[row, : sample.response_tokens] = sample.proximal
        advantages[row] = sample.advantage
        first[row] = sample.prompt_tokens
    # Response token t of a row stands at first + t and is predicted one position earlier.
    flat = (np.arange(rows)[:, None] * width + first + np.arange(longest))[mask]
    arrays = (ids, flat - 1, ids.reshape(-1)[flat], mask, behaviour, proximal, advantages)
    return MicroBatch(*(torch.from_numpy(array).to(device) for array in arrays))
