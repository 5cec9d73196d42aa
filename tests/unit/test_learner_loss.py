"""The loss against golden numbers of another trainer, and against its own definition under every split."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from services.learner.loss import (  # noqa: E402
    Objective,
    TokenInputs,
    clipped_policy_loss,
    importance_weights,
    kl_k3,
    mismatch_sums,
    policy_loss,
    update_sums,
)
from services.learner.minibatch import Denominators  # noqa: E402

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracles" / "verl_oracle.json"
AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


def objective(**changes: Any) -> Objective:
    values: dict[str, Any] = {
        "clip_low": 0.2, "clip_high": 0.28, "dual_clip": None, "aggregation": "token-mean", "length_norm": 12.0,
    }  # fmt: skip
    return Objective(**{**values, **changes})


def make_inputs(current: Any, old: Any, advantages: Any, mask: Any, **changes: Any) -> TokenInputs:
    values = {"current": current, "proximal": old, "behaviour": old, "advantages": advantages, "mask": mask}
    return TokenInputs(**{"entropy": torch.zeros_like(old), **values, **changes})


def count(mask: Any) -> Denominators:
    return Denominators(tokens=int(mask.sum()), sequences=int(mask.any(dim=1).sum()))


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    if not ORACLE.exists():
        pytest.skip(f"{ORACLE.name} is not beside the repository")
    return json.loads(ORACLE.read_text())


def oracle_tensors(oracle: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    lengths = torch.tensor(oracle["lens"])
    mask = torch.arange(oracle["T"]) < lengths[:, None]
    new = torch.tensor(oracle["new"], dtype=torch.float32, requires_grad=True)
    old = torch.tensor(oracle["old"], dtype=torch.float32)
    advantages = torch.tensor(oracle["adv_grpo"], dtype=torch.float32)[:, None]
    return new, old, advantages, mask


@pytest.mark.parametrize("dual_clip", [10.0, 3.0])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_losses_and_gradients_equal_verl(oracle: dict[str, Any], aggregation: str, dual_clip: float) -> None:
    new, old, advantages, mask = oracle_tensors(oracle)
    chosen = objective(aggregation=aggregation, dual_clip=dual_clip, length_norm=float(oracle["T"]))
    loss = policy_loss(make_inputs(new, old, advantages, mask), chosen, count(mask))
    loss.backward()
    assert loss.item() == pytest.approx(oracle[f"loss_c{dual_clip:g}/{aggregation}"], rel=1e-6)
    gradient = oracle.get(f"grad_c{dual_clip:g}/{aggregation}")
    if gradient is not None:
        torch.testing.assert_close(new.grad, torch.tensor(gradient, dtype=torch.float32), rtol=1e-6, atol=1e-6)


def test_kl_and_clip_fraction_equal_verl(oracle: dict[str, Any]) -> None:
    new, old, advantages, mask = oracle_tensors(oracle)
    tokens = mask.sum()
    # verl cuts k3 off at 10 a token; the estimator itself has no such bound.
    k3 = kl_k3(old - new).clamp(max=10).masked_fill(~mask, 0).sum() / tokens
    assert k3.item() == pytest.approx(oracle["kl/low_var_kl"], rel=1e-6)
    mismatch = mismatch_sums(new.detach(), old, mask)
    assert float(mismatch["mismatch_abs"] / tokens) == pytest.approx(oracle["kl/abs"], rel=1e-6)
    sums = update_sums(make_inputs(new, old, advantages, mask), objective(dual_clip=10.0))
    clipped = float((sums["clipped_low"] + sums["clipped_high"]) / sums["tokens"])
    assert clipped == pytest.approx(oracle["metrics_c10/token-mean"]["actor/pg_clipfrac"], rel=1e-6)


def random_inputs(rows: int, width: int, seed: int) -> tuple[Any, Any, Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    current = -torch.rand(rows, width, generator=generator, dtype=torch.float64) * 3
    old = current + 0.4 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    reference = current + 0.4 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    mask = torch.arange(width) < torch.randint(0, width + 1, (rows, 1), generator=generator)
    mask[0, 0] = True
    return current, old, reference, advantages, mask


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(AGGREGATIONS),
    st.integers(0, 10_000),
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.permutations(list(range(9))),
)
def test_gradient_is_the_same_under_every_split_and_order(
    aggregation: str, seed: int, cuts: list[int], order: list[int]
) -> None:
    current, old, reference, advantages, mask = random_inputs(9, 7, seed)
    chosen = objective(aggregation=aggregation, kl_coefficient=0.04, entropy_coefficient=0.01, importance_cap=2.0)
    totals = count(mask)

    def contribution(rows: list[int], leaf: Any) -> Any:
        index = torch.tensor(rows, dtype=torch.long)
        pieces = make_inputs(
            leaf[index], old[index], advantages[index], mask[index],
            behaviour=old[index] + 0.1, reference=reference[index], entropy=leaf[index].exp(),
        )  # fmt: skip
        return policy_loss(pieces, chosen, totals)

    whole = current.clone().requires_grad_()
    loss = contribution(list(range(9)), whole)
    loss.backward()
    split = current.clone().requires_grad_()
    bounds = [0, *sorted(cuts), 9]
    parts = [order[start:end] for start, end in pairwise(bounds)]
    total = sum(contribution(rows, split) for rows in parts)
    total.backward()
    torch.testing.assert_close(total, loss, rtol=1e-6, atol=1e-9)
    assert (split.grad - whole.grad).norm() <= 1e-10 * whole.grad.norm().clamp(min=1e-12)


def test_dual_clip_bounds_negative_advantages_only() -> None:
    current, old = torch.log(torch.tensor([5.0, 5.0])), torch.zeros(2)
    advantages = torch.tensor([-1.0, 1.0])
    plain = clipped_policy_loss(current, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=None)
    dual = clipped_policy_loss(current, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    assert plain.tolist() == pytest.approx([5.0, -1.28])
    assert dual.tolist() == pytest.approx([3.0, -1.28])


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    proximal = torch.log(torch.tensor([8.0, 0.5])).requires_grad_()
    weights = importance_weights(proximal, torch.zeros(2), 2.0)
    assert weights.tolist() == pytest.approx([2.0, 0.5])
    assert not weights.requires_grad


def test_a_fully_masked_micro_batch_contributes_exactly_nothing() -> None:
    current = torch.full((2, 3), float("-inf"), requires_grad=True)
    padded = torch.zeros(2, 3)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    inputs = make_inputs(torch.where(mask, current, padded), padded, torch.ones(2, 1), mask)
    loss = policy_loss(inputs, objective(), Denominators(tokens=10, sequences=2))
    loss.backward()
    assert loss.item() == 0
    assert current.grad.abs().sum() == 0


def test_effective_sample_size_is_one_without_mismatch_and_less_with_it() -> None:
    _, old, _, _, mask = random_inputs(9, 7, 3)

    def share(sums: dict[str, Any]) -> float:
        return float(sums["weight"] ** 2 / (sums["mismatch_tokens"] * sums["weight_squared"]))

    assert share(mismatch_sums(old, old, mask)) == pytest.approx(1)
    skewed = old + torch.linspace(-1, 1, 7, dtype=torch.float64)
    assert share(mismatch_sums(skewed, old, mask)) < 0.9
    assert float(mismatch_sums(skewed, old, mask)["mismatch_kl"]) > 0


def test_a_missing_reference_is_named() -> None:
    current, old, _, advantages, mask = random_inputs(3, 4, 0)
    with pytest.raises(ValueError, match="reference"):
        policy_loss(make_inputs(current, old, advantages, mask), objective(kl_coefficient=0.1), count(mask))
