"""Generalised advantage estimation for PPO (arXiv 1506.02438, eq. 16) over padded responses.

A response is one episode: its reward falls on its last token, and nothing follows. A truncated response is taken as
ended too: it is not bootstrapped with the value of the state in which it was cut, because that state is never left and
its value would be learned from nothing.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def token_rewards(
    rewards: NDArray[np.floating],
    mask: NDArray[np.bool_],
    log_ratio: NDArray[np.floating] | None = None,
    kl_coefficient: float = 0.0,
) -> Array:
    """Reward of each token, [rows, tokens]: the response's on its last token of `mask`, 0 elsewhere.

    `rewards` is [rows]. Where `log_ratio` = log π_old − log π_ref [rows, tokens] is given, each token of `mask` pays
    kl_coefficient × log_ratio (the k1 estimate of the KL to the reference model).
    """
    found: Array = np.zeros(mask.shape)
    rows = np.flatnonzero(mask.any(axis=1))
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    found[rows, last] = rewards[rows]
    if log_ratio is not None:
        found -= kl_coefficient * np.where(mask, log_ratio, 0.0)
    return found


def estimate(
    rewards: NDArray[np.floating], values: NDArray[np.floating], mask: NDArray[np.bool_], *, gamma: float, lam: float
) -> tuple[Array, Array]:
    """Advantages and returns (the value network's targets), both [rows, tokens], 0 outside `mask`.

    δₜ = rₜ + γ V(sₜ₊₁) − V(sₜ), Aₜ = δₜ + γλ Aₜ₊₁, return = Aₜ + V(sₜ); `values` [rows, tokens] are V(sₜ) of the states
    in which the tokens were chosen. Tokens outside `mask` (padding, tool output) are no choices: they are skipped, and
    the token before them looks to the one after them.
    """
    advantages: Array = np.zeros(mask.shape)
    following = np.zeros(mask.shape[0])
    value_after = np.zeros(mask.shape[0])
    for t in reversed(range(mask.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * value_after - values[:, t]
        following = np.where(here, delta + gamma * lam * following, following)
        value_after = np.where(here, values[:, t], value_after)
        advantages[:, t] = np.where(here, following, 0.0)
    return advantages, np.where(mask, advantages + values, 0.0)
