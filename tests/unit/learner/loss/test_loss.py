"""The loss against golden numbers of another trainer, and against its own definition under every split."""

import json
import math
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from dapo.spec import AlgorithmSpec  # noqa: E402
from services.learner.loss.denominators import Denominators  # noqa: E402
from services.learner.loss.policy import (  # noqa: E402
    Objective,
    TokenInputs,
    clipped_policy_loss,
    importance_weights,
    kl_k3,
    policy_loss,
    value_loss,
)
from services.learner.step.metrics import mismatch_sums, update_sums  # noqa: E402
from tests.support.paths import SHARED  # noqa: E402

ORACLE = SHARED / "oracles" / "verl_oracle.json"
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
def test_oracle_losses_and_gradients_equal_verl(oracle: dict[str, Any], aggregation: str, dual_clip: float) -> None:
    new, old, advantages, mask = oracle_tensors(oracle)
    chosen = objective(aggregation=aggregation, dual_clip=dual_clip, length_norm=float(oracle["T"]))
    loss = policy_loss(make_inputs(new, old, advantages, mask), chosen, count(mask))
    loss.backward()
    assert loss.item() == pytest.approx(oracle[f"loss_c{dual_clip:g}/{aggregation}"], rel=1e-6)
    gradient = oracle.get(f"grad_c{dual_clip:g}/{aggregation}")
    if gradient is not None:
        torch.testing.assert_close(new.grad, torch.tensor(gradient, dtype=torch.float32), rtol=1e-6, atol=1e-6)


def test_oracle_kl_and_clip_fraction_equal_verl(oracle: dict[str, Any]) -> None:
    new, old, advantages, mask = oracle_tensors(oracle)
    tokens = mask.sum()
    # verl cuts k3 off at 10 a token; the estimator itself has no such bound.
    k3 = kl_k3(old - new).clamp(max=10).masked_fill(~mask, 0).sum() / tokens
    assert k3.item() == pytest.approx(oracle["kl/low_var_kl"], rel=1e-6)
    mismatch = mismatch_sums(new.detach(), old, mask)
    assert float(mismatch["mismatch_abs"] / tokens) == pytest.approx(oracle["kl/abs"], rel=1e-6)
    sums, _ = update_sums(make_inputs(new, old, advantages, mask), objective(dual_clip=10.0))
    clipped = float((sums["clipped_low"] + sums["clipped_high"]) / sums["tokens"])
    golden = oracle["metrics_c10/token-mean"]
    assert clipped == pytest.approx(golden["actor/pg_clipfrac"], rel=1e-6)
    assert float(sums["dual_clipped"] / sums["tokens"]) == pytest.approx(golden["actor/pg_clipfrac_lower"], rel=1e-6)


def exact_k3(log_ratio: float) -> Decimal:
    exact = Decimal(log_ratio)
    return exact.exp() - 1 - exact


@pytest.mark.parametrize("size", [1e-7, 3e-6, 3e-4, 1e-2, 0.5, 3.0, 19.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_k3_and_its_gradient_are_right_near_zero_and_far_from_it(size: float, sign: int) -> None:
    log_ratio = torch.tensor([sign * size], requires_grad=True)
    kl = kl_k3(log_ratio)
    kl.backward()
    assert kl.dtype == torch.float32
    assert kl.item() == pytest.approx(float(exact_k3(log_ratio.item())), rel=1e-6)
    assert log_ratio.grad.item() == pytest.approx(float(Decimal(log_ratio.item()).exp() - 1), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(size=st.floats(-40, 3), sign=st.sampled_from([-1, 1]))
def test_k3_is_never_negative(dtype: Any, size: float, sign: int) -> None:
    assert kl_k3(torch.tensor([sign * 10**size], dtype=dtype)).item() >= 0


def test_the_measured_kl_of_a_small_mismatch_is_half_its_variance() -> None:
    old = -torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    behaviour = old - 3e-4 * torch.randn(old.shape, generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(old, dtype=torch.bool)
    measured = float(mismatch_sums(old, behaviour, mask)["mismatch_kl"]) / 20_000
    assert measured == pytest.approx(float((old - behaviour).double().square().mean()) / 2, rel=1e-3)
    sums, _ = update_sums(make_inputs(behaviour, old, torch.ones(1, 1), mask, reference=old), objective())
    assert float(sums["kl_reference"]) / 20_000 == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("log_ratio", [-1e4, -200.0, -20.5, -20.0, 20.0, 20.5, 200.0, 1e4])
def test_k3_far_from_the_reference_still_points_back(log_ratio: float) -> None:
    """Convex, finite, and a step against the gradient brings the policy nearer, however far it is."""
    distance = torch.tensor([log_ratio], requires_grad=True)
    kl = kl_k3(distance)
    kl.backward()
    assert kl.isfinite()
    slope = distance.grad.item()
    assert slope == pytest.approx(math.expm1(min(log_ratio, 20.0)), rel=1e-6)
    assert slope * log_ratio > 0
    assert kl_k3(distance.detach() * 0.9) < kl < kl_k3(distance.detach() * math.inf)


def test_a_policy_far_below_or_above_its_reference_is_pulled_back_by_the_loss() -> None:
    current = torch.tensor([[-30.0, -0.1]], requires_grad=True)
    reference = torch.tensor([[-0.1, -30.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    inputs = make_inputs(current, current.detach(), torch.zeros(1, 1), mask, reference=reference)
    policy_loss(inputs, objective(kl_coefficient=0.04), count(mask)).backward()
    assert current.grad[0, 0] < 0 < current.grad[0, 1]
    assert current.grad[0, 1] == pytest.approx(0.04 / 2, rel=1e-6)


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
def test_pitfall_08_invariance_of_the_gradient_under_every_split_and_order(
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


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_pitfall_17_reordering_a_mini_batch_leaves_the_gradient_unchanged(aggregation: str) -> None:
    current, old, _, advantages, mask = random_inputs(9, 7, 1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    gradients = []
    for rows in (torch.arange(9), order):
        leaf = current.clone().requires_grad_()
        inputs = make_inputs(leaf[rows], old[rows], advantages[rows], mask[rows])
        policy_loss(inputs, objective(aggregation=aggregation), count(mask)).backward()
        gradients.append(leaf.grad)
    assert (gradients[0] - gradients[1]).norm() <= 1e-10 * gradients[0].norm()


def test_pitfall_11_dual_clip_bounds_negative_advantages_only_and_is_off_by_default() -> None:
    current, old = torch.log(torch.tensor([5.0, 5.0])), torch.zeros(2)
    advantages = torch.tensor([-1.0, 1.0])
    plain = clipped_policy_loss(current, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=None)
    dual = clipped_policy_loss(current, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    assert plain.tolist() == pytest.approx([5.0, -1.28])
    assert dual.tolist() == pytest.approx([3.0, -1.28])
    assert AlgorithmSpec().dual_clip is None


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    proximal = torch.log(torch.tensor([8.0, 0.5])).requires_grad_()
    weights = importance_weights(proximal, torch.zeros(2), 2.0)
    assert weights.tolist() == pytest.approx([2.0, 0.5])
    assert not weights.requires_grad


def test_pitfall_10_a_fully_masked_micro_batch_contributes_exactly_nothing() -> None:
    current = torch.full((2, 3), float("-inf"), requires_grad=True)
    padded = torch.zeros(2, 3)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    inputs = make_inputs(torch.where(mask, current, padded), padded, torch.ones(2, 1), mask)
    loss = policy_loss(inputs, objective(), Denominators(tokens=10, sequences=2))
    loss.backward()
    assert loss.item() == 0
    assert current.grad.abs().sum() == 0


def test_importance_weights_outside_the_band_are_masked() -> None:
    proximal = torch.log(torch.tensor([2.1, 2.0, 1.0, 0.5, 0.45]))
    weights = importance_weights(proximal, torch.zeros(5), 2.0, "mask")
    assert weights.tolist() == pytest.approx([0.0, 2.0, 1.0, 0.5, 0.0])


def test_masked_tokens_stay_in_the_denominator() -> None:
    """Half of the tokens lie outside the band: the loss is half of what it is without them being masked."""
    old, behaviour = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 3.0, -3.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    inputs = make_inputs(old, old, torch.ones(1, 1), mask, behaviour=behaviour)
    masked = policy_loss(inputs, objective(importance_cap=2.0, importance_mode="mask"), count(mask))
    assert float(masked) == pytest.approx(-0.5)


@pytest.mark.parametrize(("clip_high", "highest"), [(0.2, 0.012), (0.28, 0.0128)])
def test_how_far_an_unlikely_token_may_rise(clip_high: float, highest: float) -> None:
    """DAPO, section 3.1: from probability 0.01; above the bound a good token has no gradient, below it has one."""
    for probability, moves in ((highest - 1e-6, True), (highest + 1e-6, False)):
        current = torch.log(torch.tensor([probability], dtype=torch.float64)).requires_grad_()
        old = torch.log(torch.tensor([0.01], dtype=torch.float64))
        advantages = torch.ones(1, dtype=torch.float64)
        clipped_policy_loss(
            current, old, advantages, clip_low=0.2, clip_high=clip_high, dual_clip=None
        ).sum().backward()
        assert bool(current.grad.abs() > 0) is moves


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.permutations(list(range(9))),
    st.sampled_from([None, 0.2]),
)
def test_invariance_of_the_value_gradient_under_every_split_and_order(
    seed: int, cuts: list[int], order: list[int], clip: float | None
) -> None:
    values, old, returns, _, mask = random_inputs(9, 7, seed)
    totals = count(mask)

    def contribution(rows: list[int], leaf: Any) -> Any:
        index = torch.tensor(rows, dtype=torch.long)
        return value_loss(leaf[index], old[index], returns[index], mask[index], totals, clip=clip)

    whole = values.clone().requires_grad_()
    contribution(list(range(9)), whole).backward()
    split = values.clone().requires_grad_()
    bounds = [0, *sorted(cuts), 9]
    sum(contribution(order[start:end], split) for start, end in pairwise(bounds)).backward()
    assert (split.grad - whole.grad).norm() <= 1e-10 * whole.grad.norm().clamp(min=1e-12)


def test_value_loss_is_the_worse_of_clipped_and_plain() -> None:
    old, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    current, returns = torch.tensor([[1.0, -1.0]]), torch.ones(1, 2)
    totals = Denominators(tokens=2, sequences=1)
    plain = value_loss(current, old, returns, mask, totals, clip=None)
    clipped = value_loss(current, old, returns, mask, totals, clip=0.2)
    assert float(plain) == pytest.approx((0 + 4) / 4)
    assert float(clipped) == pytest.approx((0.8**2 + 4) / 4)


def test_up_clipped_tokens_and_their_probabilities() -> None:
    current = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.9]]))
    old = torch.log(torch.tensor([[0.25, 0.29, 0.9, 0.9]]))
    sums, maxima = update_sums(
        make_inputs(current, old, torch.tensor([[1.0, 1.0, -1.0, 1.0]]), torch.tensor([[True, True, True, False]])),
        objective(),
    )
    assert [int(sums[name]) for name in ("tokens", "clipped_high", "clipped_low")] == [3, 1, 1]
    assert float(sums["clipped_high_probability"]) == pytest.approx(0.5)
    assert float(maxima["clipped_high_probability_max"]) == pytest.approx(0.5)
    assert float(sums["probability"]) == pytest.approx(1.0)


def test_tokens_whose_gradient_the_dual_clip_takes_are_counted() -> None:
    """Bad tokens far above c; neither good tokens nor those that only the plain clip holds."""
    current = torch.log(torch.tensor([[5.0, 2.0, 0.5, 5.0, 5.0]])).requires_grad_()
    old, mask = torch.zeros(1, 5), torch.tensor([[True, True, True, True, False]])
    inputs = make_inputs(current, old, torch.tensor([[-1.0, -1.0, -1.0, 1.0, -1.0]]), mask)
    chosen = objective(dual_clip=3.0)
    sums, _ = update_sums(inputs, chosen)
    assert [int(sums[name]) for name in ("dual_clipped", "clipped_low", "clipped_high")] == [1, 1, 1]
    policy_loss(inputs, chosen, count(mask)).backward()
    assert (current.grad == 0).tolist() == [[True, False, True, True, True]]
    assert "dual_clipped" not in update_sums(inputs, objective())[0]


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
