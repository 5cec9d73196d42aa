"""Generalised advantage estimation against its definition, and where a response's reward falls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from services.learner.loss.gae import estimate, token_rewards  # noqa: E402

SHARES = st.floats(0, 1)


def drawn(seed: int, rows: int = 5, tokens: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, values and a mask with padding and holes; a row may be empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(tokens) < rng.integers(0, tokens + 1, (rows, 1))) & (rng.random((rows, tokens)) < 0.8)
    return rng.standard_normal((rows, tokens)) * mask, rng.standard_normal((rows, tokens)), mask


@given(st.integers(0, 10_000), SHARES, SHARES)
def test_gae_is_the_discounted_sum_of_all_later_errors(seed: int, gamma: float, lam: float) -> None:
    """The O(T²) definition: Aₜ = Σₖ (γλ)ᵏ (rₜ₊ₖ + γ V(sₜ₊ₖ₊₁) − V(sₜ₊ₖ)) over the mask's tokens, V = 0 at the end."""
    rewards, values, mask = drawn(seed)
    advantages, returns = estimate(rewards, values, mask, gamma=gamma, lam=lam)
    for row in range(mask.shape[0]):
        places = np.flatnonzero(mask[row])
        value = [*values[row, places], 0.0]
        errors = [rewards[row, place] + gamma * value[k + 1] - value[k] for k, place in enumerate(places)]
        for k, place in enumerate(places):
            wanted = sum((gamma * lam) ** (later - k) * errors[later] for later in range(k, len(places)))
            assert advantages[row, place] == pytest.approx(wanted, abs=1e-12)
            assert returns[row, place] == pytest.approx(wanted + value[k], abs=1e-12)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


@given(st.integers(0, 10_000))
def test_with_gamma_and_lambda_1_the_return_is_the_reward_still_to_come(seed: int) -> None:
    _, values, mask = drawn(seed)
    rewards = np.random.default_rng(seed).standard_normal(mask.shape[0])
    _, returns = estimate(token_rewards(rewards, mask), values, mask, gamma=1.0, lam=1.0)
    np.testing.assert_allclose(returns, np.where(mask, rewards[:, None], 0), atol=1e-12)


@given(st.integers(0, 10_000), SHARES)
def test_with_lambda_0_only_the_next_state_counts(seed: int, gamma: float) -> None:
    rewards, values, _ = drawn(seed)
    mask = np.ones_like(values, dtype=bool)
    advantages, _ = estimate(rewards, values, mask, gamma=gamma, lam=0.0)
    after = np.concatenate([values[:, 1:], np.zeros((values.shape[0], 1))], axis=1)
    np.testing.assert_allclose(advantages, rewards + gamma * after - values, atol=1e-12)


def test_the_reward_falls_on_the_last_token_and_the_kl_on_each() -> None:
    mask = np.array([[True, True, False], [True, False, True], [False, False, False]])
    rewards = token_rewards(np.array([1.0, -1.0, 9.0]), mask)
    assert rewards.tolist() == [[0, 1, 0], [0, 0, -1], [0, 0, 0]]
    log_ratio = np.array([[0.5, 1.0, 7.0], [2.0, 7.0, 0.0], [7.0, 7.0, 7.0]])
    charged = token_rewards(np.array([1.0, -1.0, 9.0]), mask, log_ratio, 0.1)
    np.testing.assert_allclose(charged, [[-0.05, 0.9, 0], [-0.2, 0, -1], [0, 0, 0]])
