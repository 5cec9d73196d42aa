"""The gradient-noise estimate against a distribution whose noise scale is known."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from services.learner.loss.gradient_noise import gradient_noise_scale, gradient_sums  # noqa: E402

WIDTH = 8


def tokens_of(by_response: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of tokens that add up to those of the responses, and their mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    shares = [one.expand(length, WIDTH) / length for one, length in zip(by_response, lengths, strict=True)]
    return torch.cat(shares), mask


def test_the_noise_scale_of_a_known_distribution_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.full((WIDTH,), 0.5, dtype=torch.float64)
    sums: Counter[str] = Counter()
    for update in range(200):
        samples = signal + 2.0 * torch.randn(64, WIDTH, generator=generator, dtype=torch.float64)
        gradient, mask = tokens_of(samples / 64, [1 + i % 3 for i in range(64)])
        sums.update(gradient_sums(gradient, mask, update))
    assert gradient_noise_scale(sums, 200) == pytest.approx(2.0**2 / 0.5**2, rel=0.1)


@given(st.integers(0, 1000), st.integers(1, 7))
def test_parts_of_a_mini_batch_add_up(seed: int, cut: int) -> None:
    gradients = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = [1 + (seed + i) % 4 for i in range(8)]
    whole = gradient_sums(*tokens_of(gradients, lengths), 0)
    parts: Counter[str] = Counter()
    for rows in (slice(0, cut), slice(cut, 8)):
        parts.update(gradient_sums(*tokens_of(gradients[rows], lengths[rows]), 0))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name].double(), value.double())


def test_equal_gradients_have_no_noise_and_a_single_one_tells_nothing() -> None:
    same = torch.ones(4, WIDTH, dtype=torch.float64)
    assert gradient_noise_scale(gradient_sums(*tokens_of(same, [1, 2, 3, 4]), 0), 1) == pytest.approx(0)
    assert gradient_noise_scale(gradient_sums(*tokens_of(same[:1], [2]), 0), 1) is None
    opposite = torch.stack([same[0], -same[0]])
    assert gradient_noise_scale(gradient_sums(*tokens_of(opposite, [1, 1]), 0), 1) is None


def test_responses_out_of_the_loss_do_not_count() -> None:
    gradient, mask = tokens_of(torch.ones(3, WIDTH, dtype=torch.float64), [2, 1, 2])
    empty = torch.cat([mask, torch.zeros(1, 2, dtype=torch.bool)])
    assert int(gradient_sums(gradient, empty, 0)["gradient_responses_0"]) == 3
