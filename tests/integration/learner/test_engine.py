"""One gradient, however it is computed: ZeRO stage, ranks, micro-batches; against plain PyTorch."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from tests.support.learner.kit import RANK, make_spec, model_directory, run_ranks  # noqa: E402


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("toy"))


def plain_pytorch(model_dir: Path, batches: int) -> dict[str, Any]:
    """The same steps without DeepSpeed, micro-batches or helpers: log-softmax of all logits and the paper's formula."""
    sys.path.insert(0, str(RANK.parent))
    from rank import make_samples
    from transformers import AutoModelForCausalLM

    from services.learner.step.minibatch import split_updates

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    norms, losses = [], []
    for number in range(batches):
        samples = make_samples(number, 24, model.config.vocab_size)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (number + 1) / 2)
        norms.append([])
        losses.append([])
        for indices in split_updates(24, 2, seed=0, batch=number):
            tokens = sum(samples[i].response_tokens for i in indices)
            loss = torch.zeros(())
            for sample in (samples[i] for i in indices):
                ids = torch.from_numpy(sample.ids.astype("int64"))
                logprobs = model(ids[None]).logits[0].log_softmax(-1)
                start = sample.prompt_tokens
                current = logprobs[start - 1 : -1].gather(1, ids[start:, None])[:, 0]
                ratio = (current - torch.from_numpy(sample.behaviour)).exp()
                clipped = ratio.clamp(0.8, 1.28)
                advantage = sample.advantages[0].item()
                loss = loss - torch.minimum(ratio * advantage, clipped * advantage).sum() / tokens
            optimizer.zero_grad()
            loss.backward()
            norms[-1].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            losses[-1].append(loss.item())
            optimizer.step()
    parameters = {}
    for name, parameter in model.named_parameters():
        flat = parameter.detach().double().flatten()
        parameters[name] = [*flat[:16].tolist(), float(flat.sum()), float(flat.norm())]
    return {"norms": norms, "losses": losses, "parameters": parameters}


CUTS = [(0, 10_000), (0, 40), (1, 60), (2, 40), (3, 10_000), (3, 40)]
"""ZeRO stage and micro-batch budget in tokens."""
POISONED = (0, 2)
"""ZeRO stages."""
BATCHES = 2
MIXED = {"proximal_policy": "decoupled", "kl_coefficient": 0.05, "entropy_coefficient": 0.01}


@pytest.fixture(scope="module")
def wanted(model_dir: Path) -> dict[str, Any]:
    return plain_pytorch(model_dir, BATCHES)


@pytest.fixture(scope="module")
def found(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By number of ranks: CUTS, three usable samples on stage 3, gradient checkpointing, a poisoned sample on each of
    POISONED, MIXED in micro-batches."""
    cases = [
        {"spec": make_spec(model_dir, stage=stage, budget=budget), "batches": BATCHES, "samples": 24}
        for stage, budget in CUTS
    ]
    cases.append({"spec": make_spec(model_dir, stage=3), "batches": 2, "samples": 4, "lost": [2]})
    recomputing = make_spec(model_dir)
    recomputing["model"]["gradient_checkpointing"] = True
    cases.append({"spec": recomputing, "batches": BATCHES, "samples": 24})
    poisoned = {"batches": BATCHES, "samples": 24, "poisoned_batch": 0}
    cases += [{"spec": make_spec(model_dir, stage=stage), **poisoned} for stage in POISONED]
    results = {}
    for ranks, budget in ((1, 10_000), (2, 40)):
        mixed = {"spec": make_spec(model_dir, budget=budget, **MIXED), "batches": 2, "samples": 24}
        results[ranks] = run_ranks(tmp_path_factory.mktemp(f"ranks{ranks}"), [*cases, mixed], ranks)
    return results


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("cut", range(len(CUTS)), ids=[f"stage{stage}-{budget}" for stage, budget in CUTS])
def test_invariance_of_parameters_under_every_cut_of_the_work(
    found: dict[int, list[dict[str, Any]]], wanted: dict[str, Any], cut: int, ranks: int
) -> None:
    result = found[ranks][cut]
    for metrics, norms, losses in zip(result["metrics"], wanted["norms"], wanted["losses"], strict=True):
        assert metrics["grad_norm"] == pytest.approx(sum(norms) / 2, rel=1e-5)
        assert metrics["loss"] == pytest.approx(sum(losses) / 2, rel=1e-4, abs=1e-5)
        assert metrics["updates"] == 2
    assert [m["lr"] for m in result["metrics"]] == pytest.approx([5e-4, 1e-3])
    noise, plain = ([m.get("gradient_noise_scale", 0.0) for m in found[ranks][which]["metrics"]] for which in (cut, 0))
    assert noise == pytest.approx(plain, rel=1e-3)
    assert result["parameters"].keys() == wanted["parameters"].keys()
    for name, values in wanted["parameters"].items():
        assert result["parameters"][name][:16] == pytest.approx(values[:16], abs=1e-5), name
        assert result["parameters"][name][-1] == pytest.approx(values[-1], rel=1e-5, abs=1e-5), name


def test_pitfall_10_a_lost_sample_and_an_idle_rank_leave_the_ranks_in_step(
    found: dict[int, list[dict[str, Any]]],
) -> None:
    """Three samples in two updates on two ranks: a rank runs empty micro-batches."""
    one, two = found[1][len(CUTS)]["metrics"], found[2][len(CUTS)]["metrics"]
    assert [m["trained_responses"] for m in one] == [m["trained_responses"] for m in two] == [3, 3]
    for single, double in zip(one, two, strict=True):
        assert single["grad_norm"] == pytest.approx(double["grad_norm"], rel=1e-5)
        assert single["trained_tokens"] == double["trained_tokens"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_invariance_of_gradients_under_checkpointing(found: dict[int, list[dict[str, Any]]], ranks: int) -> None:
    without, recomputed = found[ranks][0], found[ranks][len(CUTS) + 1]
    assert [without["recomputes"], recomputed["recomputes"]] == [False, True]
    norms = [[metrics["grad_norm"] for metrics in result["metrics"]] for result in (without, recomputed)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    for name, values in without["parameters"].items():
        assert recomputed["parameters"][name] == pytest.approx(values, rel=1e-6, abs=1e-6), name


def test_decoupled_with_reference_and_entropy_bonus(found: dict[int, list[dict[str, Any]]]) -> None:
    one, two = found[1][-1]["metrics"], found[2][-1]["metrics"]
    for single, double in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "entropy", "kl_reference", "mismatch_kl", "effective_sample_size"):
            assert single[name] == pytest.approx(double[name], rel=1e-4, abs=1e-6), name
        noise = [metrics.get("gradient_noise_scale", 0.0) for metrics in (single, double)]
        assert noise[0] == pytest.approx(noise[1], rel=1e-3)
        assert 0 < single["effective_sample_size"] < 1
    # The reference is the initial model: the policy stands near it in the first step and has moved in the second.
    assert one[1]["kl_reference"] > one[0]["kl_reference"] > 0


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("which", range(len(POISONED)), ids=[f"stage{stage}" for stage in POISONED])
def test_a_gradient_that_is_not_finite_updates_nothing(
    found: dict[int, list[dict[str, Any]]], which: int, ranks: int
) -> None:
    """The update with the poisoned sample is left out, the others and the next batch are trained."""
    result = found[ranks][len(CUTS) + 2 + which]
    assert [(m["updates"], m["skipped_updates"]) for m in result["metrics"]] == [(1, 1), (2, 0)]
    for name, values in result["parameters"].items():
        assert all(map(math.isfinite, values)), name
    assert math.isfinite(result["metrics"][1]["loss"])
    assert result["metrics"][1]["grad_norm"] > 0


@pytest.mark.parametrize(("stage", "ranks"), [(0, 1), (3, 2)])
def test_resume_is_exact_and_the_export_is_the_model(tmp_path: Path, model_dir: Path, stage: int, ranks: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from services.learner.export import export

    case = {"spec": make_spec(model_dir, stage=stage), "batches": 3, "samples": 24, "checkpoint_after": 2}
    resume = {**case, "resume": True, "checkpoint_after": 3}
    whole, resumed = run_ranks(tmp_path, [case, resume], ranks)
    assert [len(result["metrics"]) for result in (whole, resumed)] == [3, 1]
    assert resumed["parameters"] == whole["parameters"]
    assert resumed["metrics"][-1]["grad_norm"] == whole["metrics"][-1]["grad_norm"]

    assert export(tmp_path, tmp_path / "exported").step == 3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    for name, parameter in model.named_parameters():
        norm = parameter.detach().double().norm().item()
        assert norm == pytest.approx(whole["parameters"][name][-1], rel=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "exported")("abc>")["input_ids"] == [0, 1, 2, 10]
    with pytest.raises(FileExistsError, match="not empty"):
        export(tmp_path, tmp_path / "exported")
