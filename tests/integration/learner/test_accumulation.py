"""Pitfall 09: DeepSpeed divides by accumulation steps and averages over ranks; both must be undone.

Adam hides a wrong factor: its update does not depend on the gradient's scale. The gradient's norm before clipping does.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from tests.support.learner.kit import RANK, make_spec, model_directory, run_ranks  # noqa: E402

SAMPLES = 9
AGGREGATIONS = ("token-mean", "seq-mean-token-mean")
STAGES = (0, 3)
BUDGETS = {"one micro-batch a rank": 10_000, "one sample a micro-batch": 1}
CASES = list(product(AGGREGATIONS, STAGES, BUDGETS))


def one_update(model_dir: Path, aggregation: str, stage: int, budget: int) -> dict[str, Any]:
    spec = make_spec(model_dir, stage=stage, budget=budget, loss_aggregation=aggregation)
    spec["training"]["updates_per_step"] = 1
    return {"spec": spec, "batches": 1, "samples": SAMPLES}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def found(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Any, ...], dict[str, float]]:
    """The step's metrics by case and number of ranks."""
    cases = [one_update(model_dir, aggregation, stage, BUDGETS[cut]) for aggregation, stage, cut in CASES]
    metrics = {}
    for ranks in (1, 2):
        results = run_ranks(tmp_path_factory.mktemp(f"ranks{ranks}"), cases, ranks)
        metrics |= {(*case, ranks): result["metrics"][0] for case, result in zip(CASES, results, strict=True)}
    return metrics


@pytest.fixture(scope="module")
def wanted(model_dir: Path) -> dict[str, dict[str, float]]:
    """Plain torch: one backward pass of the whole mini-batch's loss."""
    return {aggregation: plain_update(model_dir, aggregation) for aggregation in AGGREGATIONS}


def plain_update(model_dir: Path, aggregation: str) -> dict[str, float]:
    sys.path.insert(0, str(RANK.parent))
    from rank import make_samples
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    samples = make_samples(0, SAMPLES, model.config.vocab_size)
    tokens = sum(sample.response_tokens for sample in samples)
    loss = torch.zeros(())
    for sample in samples:
        ids = torch.from_numpy(sample.ids).long()
        logprobs = model(ids[None]).logits[0, sample.prompt_tokens - 1 : -1].log_softmax(-1)
        current = logprobs.gather(1, ids[sample.prompt_tokens :, None])[:, 0]
        ratio = (current - torch.from_numpy(sample.behaviour)).exp()
        advantages = torch.from_numpy(sample.advantages)
        losses = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
        weight = tokens if aggregation == "token-mean" else sample.response_tokens * SAMPLES
        loss = loss + losses.sum() / weight
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    return {"loss": loss.item(), "grad_norm": norm.item()}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("aggregation", "stage", "cut"), CASES)
def test_pitfall_09_the_gradient_is_that_of_the_summed_loss(
    found: dict[tuple[Any, ...], dict[str, float]], wanted: dict[str, dict[str, float]],
    aggregation: str, stage: int, cut: str, ranks: int,
) -> None:  # fmt: skip
    metrics = found[aggregation, stage, cut, ranks]
    assert metrics["updates"] == 1
    for name, value in wanted[aggregation].items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
