"""Packed and padded micro-batches are the same computation, and packing keeps its budget."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
pytest.importorskip("transformers")

from services.learner.model.policy import PolicyModel, TrainedModel, ValueModel  # noqa: E402
from services.learner.step.batch import MicroBatch, collate  # noqa: E402
from services.learner.step.packing import pack_tokens, packs  # noqa: E402
from services.learner.step.payloads import TrainingSample  # noqa: E402
from tests.support.models import VOCABULARY, tiny_model  # noqa: E402

CPU = torch.device("cpu")
SHAPES = [(3, 9), (1, 1), (5, 2), (2, 14)]
"""Prompt and response tokens."""


def make_samples() -> list[TrainingSample]:
    rng = np.random.default_rng(0)
    samples = []
    for prompt, response in SHAPES:
        ids = rng.integers(0, VOCABULARY, prompt + response).astype(np.int32)
        mask = rng.random(response) < 0.8
        mask[0] = True
        values = rng.standard_normal((2, response)).astype(np.float32)
        samples.append(TrainingSample(ids, prompt, mask, behaviour=values[0], advantages=values[1], reward=1.0))
    return samples


def outputs(model: TrainedModel, batch: MicroBatch) -> list[Any]:
    """What the model gives at the masked tokens, each [rows, longest response]."""
    if isinstance(model, ValueModel):
        return [batch.padded(model(batch.ids, batch.positions, batch.position_ids))]
    return [batch.padded(one) for one in model(batch.ids, batch.positions, batch.targets, batch.position_ids)]


def make_model(kind: str, architecture: str) -> TrainedModel:
    causal = tiny_model(architecture, seed=0)
    if kind == "policy":
        return PolicyModel(causal, 0.9, entropy_gradient=True)
    model = ValueModel(causal)
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("kind", ["policy", "value"])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_packing_invariance_of_outputs_and_gradients(architecture: str, kind: str) -> None:
    model, samples = make_model(kind, architecture), make_samples()
    results = []
    for packed in (False, True):
        batch = collate(samples, CPU, packed=packed)
        model.zero_grad()
        found = outputs(model, batch)
        sum((one * batch.advantages).sum() for one in found).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append(([one.detach() for one in found], gradients))
    (padded, wanted), (packed_, found) = results
    for one, other in zip(padded, packed_, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_packing_invariance_under_gradient_checkpointing() -> None:
    model, batch = make_model("policy", "qwen2"), collate(make_samples(), CPU, packed=True)
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train().zero_grad()
        (outputs(model, batch)[0] * batch.advantages).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_packed_micro_batch_is_one_row() -> None:
    samples = make_samples()[1:3]
    batch, rows = collate(samples, CPU, packed=True), collate(samples, CPU)
    assert batch.ids.tolist() == [[*samples[0].ids.tolist(), *samples[1].ids.tolist()]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 4, 5, 6]]
    assert rows.position_ids is None
    assert batch.targets.tolist() == rows.targets.tolist()
    assert batch.positions[0].item() == 0
    assert batch.ids.flatten()[batch.positions + 1].tolist() == batch.targets.tolist()
    assert batch.mask.tolist() == rows.mask.tolist()
    assert batch.ids.numel() == 9 < rows.ids.numel()


def test_an_empty_packed_micro_batch_runs() -> None:
    batch = collate([], CPU, packed=True)
    (logprobs, entropy) = outputs(make_model("policy", "qwen2"), batch)
    assert logprobs.eq(0).all()
    assert entropy.eq(0).all()


def test_auto_packs_for_flash_attention_only() -> None:
    causal = tiny_model("qwen2", seed=0)
    assert [packs(choice, causal) for choice in ("auto", "on", "off")] == [False, True, False]
    causal.config._attn_implementation_internal = "flash_attention_2"
    assert [packs(choice, causal) for choice in ("auto", "on", "off")] == [True, True, False]


@given(st.lists(st.integers(2, 300), max_size=40), st.integers(1, 250))
def test_packs_keep_the_budget_and_leave_no_two_to_merge(lengths: list[int], budget: int) -> None:
    packs_ = pack_tokens(range(len(lengths)), lengths, budget)
    assert sorted(index for indices in packs_ for index in indices) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in indices) for indices in packs_]
    assert all(size <= budget or len(indices) == 1 for size, indices in zip(sizes, packs_, strict=True))
    assert all(one + other > budget for one, other in combinations(sizes, 2))
