"""Pitfalls of the algorithms that lie between the modules."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dapo.spec import RunSpec
from tests.support.spec import spec, tree


def make_policy(temperature: float, *, dtype: Any = None, float32_head: bool = False) -> Any:
    pytest.importorskip("deepspeed")
    from services.learner.model.policy import PolicyModel
    from tests.support.models import tiny_model

    causal = tiny_model("qwen2", seed=0).to(dtype)
    return PolicyModel(causal, temperature, entropy_gradient=True, float32_head=float32_head)


def sampled_tokens() -> tuple[Any, Any, Any]:
    """Two rows of ids; the flat positions that predict tokens 3 to 6 of each row, and these tokens."""
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [7, 5, 3, 1, 2, 4, 6]])
    positions = torch.cat([torch.arange(2, 6), 7 + torch.arange(2, 6)])
    return ids, positions, ids.flatten()[positions + 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_pitfall_12_log_probabilities_are_those_of_the_tempered_policy(temperature: float) -> None:
    """The sampler draws from softmax(logits / T): so are its ratios, their gradients and the entropy to be taken."""
    torch = pytest.importorskip("torch")
    policy, (ids, positions, targets) = make_policy(temperature), sampled_tokens()
    logits = policy.causal(input_ids=ids).logits.flatten(0, 1)[positions]
    wanted = (logits / temperature).log_softmax(-1)
    wanted_outputs = (wanted.gather(1, targets[:, None])[:, 0], -(wanted.exp() * wanted).sum(-1))
    outputs = policy(ids, positions, targets)
    for found, expected in zip(outputs, wanted_outputs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(-1, 1, len(targets))
    gradients = [
        torch.autograd.grad((weights * logprobs).sum() + entropy.sum(), list(policy.parameters()), retain_graph=True)
        for logprobs, entropy in (outputs, wanted_outputs)
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_pitfall_12_the_reference_model_has_the_samplers_temperature() -> None:
    """Or the KL would measure the temperature."""
    torch = pytest.importorskip("torch")
    policy, arguments = make_policy(0.7), sampled_tokens()
    from services.learner.step.preparation import Preparation
    from tests.support.models import tiny_model

    engine: Any = SimpleNamespace(ranks=SimpleNamespace(device=torch.device("cpu")), module=policy)
    tempered = spec(sampling__temperature=0.7, algorithm__kl_coefficient=0.04)
    reference = Preparation(tempered, engine, None, tiny_model("qwen2", seed=0), packed=False).reference
    assert reference is not None
    torch.testing.assert_close(reference(*arguments)[0], policy(*arguments)[0].detach())


@pytest.mark.parametrize("head_dtype", ["auto", "float32"])
def test_the_reference_models_logits_have_the_policys_format(head_dtype: str) -> None:
    """Or the KL would measure the rounding."""
    torch = pytest.importorskip("torch")
    policy, arguments = make_policy(1.0, dtype=torch.bfloat16, float32_head=head_dtype == "float32"), sampled_tokens()
    from services.learner.step.preparation import Preparation
    from tests.support.models import tiny_model

    engine: Any = SimpleNamespace(ranks=SimpleNamespace(device=torch.device("cpu")), module=policy)
    chosen = spec(model__dtype="bfloat16", model__head_dtype=head_dtype, algorithm__kl_coefficient=0.04)
    causal = tiny_model("qwen2", seed=0).to(torch.bfloat16)
    reference = Preparation(chosen, engine, None, causal, packed=False).reference
    assert reference is not None
    assert torch.equal(reference(*arguments)[0], policy(*arguments)[0].detach())


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        RunSpec.model_validate(tree(**fields))
    return str(refused.value)


@given(st.floats(0.01, 0.999), st.integers(1, 10_000))
def test_pitfall_13_truncated_sampling_is_refused_in_training(top_p: float, top_k: int) -> None:
    assert "sampling.top_p" in refusal(sampling__top_p=top_p)
    assert "sampling.top_k" in refusal(sampling__top_k=top_k)


def test_pitfall_13_whole_sampling_is_the_default() -> None:
    sampling = spec().sampling
    assert (sampling.top_p, sampling.top_k) == (1, -1)
