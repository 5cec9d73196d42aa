"""How noisy a mini-batch's gradient is: the simple noise scale tr(Σ) / |G|² (arXiv 1812.06162, eq. 2.9).

Gradients of single responses are not at hand, but those by the last hidden states are, after every backward pass at
every ZeRO stage. Summed over a response's tokens they are its gradient by a bias added there: one layer's view of the
noise.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def gradient_sums(gradient: Tensor, mask: Tensor, update: int) -> dict[str, Tensor]:
    """Sums of one micro-batch of update number `update`, to be added up over micro-batches and ranks.

    `gradient` [n, width] belongs to the n tokens of `mask` [responses, tokens], row after row.
    """
    rows = mask.nonzero()[:, 0]
    by_response = gradient.new_zeros((mask.shape[0], gradient.shape[1]), dtype=torch.float64)
    by_response.index_add_(0, rows, gradient.double())
    return {
        f"gradient_{update}": by_response.sum(dim=0),
        f"gradient_squares_{update}": by_response.square().sum(),
        f"gradient_responses_{update}": mask.any(dim=1).sum(),
    }


def gradient_noise_scale(sums: Mapping[str, Tensor], updates: int) -> float | None:
    """tr(Σ) / |G|² in responses, both averaged over the updates; a batch of so many has as much signal as noise.

    None where the noise hides the signal, or an update has a single response.
    """
    covariance_trace = squared_norm = 0.0
    for update in range(updates):
        if f"gradient_{update}" not in sums:
            return None
        count = float(sums[f"gradient_responses_{update}"])
        whole = float(sums[f"gradient_{update}"].square().sum())
        if count < 2:
            return None
        # Of responses scaled so that their mean, not their sum, is the gradient.
        variance = count * count / (count - 1) * (float(sums[f"gradient_squares_{update}"]) - whole / count)
        covariance_trace += variance
        squared_norm += whole - variance / count
    return covariance_trace / squared_norm if squared_norm > 0 else None
