"""A training step on a GPU: the CPU's loss, gradients and weights, within the rounding of the format."""

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from services.learner.model.policy import PolicyModel, load_causal  # noqa: E402
from services.learner.step.packing import packs  # noqa: E402
from tests.support.learner.kit import make_spec, model_directory, run_ranks  # noqa: E402
from tests.support.models import hundred_million, save  # noqa: E402

FLOAT32, BFLOAT16 = "float32", "bfloat16"
ROUNDING = {FLOAT32: 1e-3, BFLOAT16: 3e-2}
"""Of norms, losses and weights, relative to the CPU's in the same format."""
CASES: dict[str, dict[str, Any]] = {
    "float32-0": {"dtype": FLOAT32, "stage": 0},
    "float32-1": {"dtype": FLOAT32, "stage": 1},
    "float32-2": {"dtype": FLOAT32, "stage": 2},
    "float32-3": {"dtype": FLOAT32, "stage": 3},
    "float32-micro-batches": {"dtype": FLOAT32, "stage": 0, "budget": 60},
    "float32-packed": {"dtype": FLOAT32, "stage": 0, "packing": "on"},
    "float32-recomputed": {"dtype": FLOAT32, "stage": 0, "recompute": True},
    "float32-offload-2": {"dtype": FLOAT32, "stage": 2, "offload": "optimizer"},
    "float32-offload-3": {"dtype": FLOAT32, "stage": 3, "offload": "parameters"},
    "bfloat16-1": {"dtype": BFLOAT16, "stage": 0},
    "bfloat16-2": {"dtype": BFLOAT16, "stage": 2},
    "bfloat16-3": {"dtype": BFLOAT16, "stage": 3},
    "bfloat16-packed": {"dtype": BFLOAT16, "stage": 1, "packing": "on"},
    "bfloat16-head": {"dtype": BFLOAT16, "stage": 1, "head": FLOAT32},
    "bfloat16-lora": {"dtype": BFLOAT16, "stage": 1, "lora": True},
}
"""Stage 0 in bfloat16 becomes stage 1."""
ON_CPU = {name: case for name, case in CASES.items() if not {"offload"} & case.keys()}
BATCHES = 2


def case_spec(model: Path, case: dict[str, Any]) -> dict[str, Any]:
    spec = make_spec(model, stage=case["stage"], budget=case.get("budget", 10_000))
    spec["model"] |= {"dtype": case["dtype"], "gradient_checkpointing": case.get("recompute", False)}
    spec["training"] |= {"packing": case.get("packing", "auto"), "offload": case.get("offload", "none")}
    if head := case.get("head"):
        spec["model"]["head_dtype"] = head
    if case.get("lora"):
        spec["lora"] = {"rank": 4, "alpha": 8.0}
    # With its usual epsilon AdamW's first step is the gradient's sign, and that of a rounding error counts in full.
    spec["optimizer"] = {"learning_rate": 1e-2, "epsilon": 1e-3, "warmup_steps": 2}
    return spec


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def found(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """(CPU's, GPU's) result of each case."""
    results = {}
    for device in ("cpu", "cuda"):
        cases = [{"spec": case_spec(toy, case), "batches": BATCHES, "samples": 24} for case in CASES.values()]
        results[device] = run_ranks(tmp_path_factory.mktemp(device), cases, 1, device)
    pairs = zip(results["cpu"], results["cuda"], strict=True)
    return {name: {"cpu": cpu, "cuda": gpu} for name, (cpu, gpu) in zip(CASES, pairs, strict=True)}


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The largest of each kind: norms and weights relative to the other's, losses and first weights absolute."""
    metrics = list(zip(one["metrics"], other["metrics"], strict=True))
    weights = [(one["parameters"][name], values) for name, values in other["parameters"].items()]
    return {
        "grad_norm": max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in metrics),
        "loss": max(abs(a["loss"] - b["loss"]) for a, b in metrics),
        "entropy": max(abs(a["entropy"] / b["entropy"] - 1) for a, b in metrics),
        "weight_norm": max(abs(a[-1] - b[-1]) / max(1e-3, b[-1]) for a, b in weights),
        "weight": max(abs(x - y) for a, b in weights for x, y in zip(a[:16], b[:16], strict=True)),
    }


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_cpus(found: dict[str, dict[str, Any]], case: str, figures: Any) -> None:
    gaps = differences(found[case]["cuda"], found[case]["cpu"])
    figures(**gaps)
    assert all(math.isfinite(gap) and gap <= ROUNDING[CASES[case]["dtype"]] for gap in gaps.values()), gaps


@pytest.mark.parametrize("case", ["float32-1", "float32-2", "float32-3", "float32-packed", "float32-micro-batches"])
def test_on_a_gpu_too_the_gradient_does_not_depend_on_the_cut(
    found: dict[str, dict[str, Any]], case: str, figures: Any
) -> None:
    gaps = differences(found[case]["cuda"], found["float32-0"]["cuda"])
    figures(**gaps)
    assert all(gap <= 1e-4 for gap in gaps.values()), gaps


def test_bfloat16_without_flash_attention_runs_padded_sdpa(toy: Path) -> None:
    from transformers.utils import is_flash_attn_2_available

    causal = load_causal(str(toy), BFLOAT16)
    flash = is_flash_attn_2_available()
    assert causal.config._attn_implementation == ("flash_attention_2" if flash else "sdpa")
    assert packs("auto", causal) == flash


def gradients(model: PolicyModel, device: str) -> dict[str, Any]:
    """(log-probabilities, gradient of each parameter) of fixed sequences, in float64 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.vocabulary, (4, 257), generator=generator)
    weights = torch.randn(4 * 256, generator=generator) / (4 * 256)
    positions = torch.arange(4 * 257).view(4, 257)[:, :-1].reshape(-1)
    targets = ids[:, 1:].reshape(-1)
    model = model.to(device)
    logprobs, _ = model(*(one.to(device) for one in (ids, positions, targets)))
    (logprobs * weights.to(device)).sum().backward()
    found = {name: one.grad.double().cpu() for name, one in model.named_parameters() if one.grad is not None}
    return {"logprobs": logprobs.detach().double().cpu(), **found}


def error(found: dict[str, Any], wanted: dict[str, Any]) -> tuple[float, float]:
    """‖found − wanted‖ / ‖wanted‖ of the log-probabilities and of all gradients together."""
    apart = lambda names: math.sqrt(sum(float((found[n] - wanted[n]).square().sum()) for n in names))  # noqa: E731
    size = lambda names: math.sqrt(sum(float(wanted[n].square().sum()) for n in names))  # noqa: E731
    gradients = [name for name in wanted if name != "logprobs"]
    return apart(["logprobs"]) / size(["logprobs"]), apart(gradients) / size(gradients)


def test_the_gradient_of_a_hundred_million_parameters(tmp_path: Path, figures: Any) -> None:
    """float32 against the CPU's; bfloat16 is no further from that than the CPU's bfloat16 is."""
    save(hundred_million(), tmp_path)
    found = {}
    for dtype in (FLOAT32, BFLOAT16):
        for device in ("cpu", "cuda"):
            found[dtype, device] = gradients(PolicyModel(load_causal(str(tmp_path), dtype).train(), 1.0), device)
    wanted = found[FLOAT32, "cpu"]
    errors = {key: error(found[key], wanted) for key in found}
    figures(**{f"{dtype}_{device}": values for (dtype, device), values in errors.items()})
    assert all(gap <= 1e-4 for gap in errors[FLOAT32, "cuda"])
    for gpu, cpu in zip(errors[BFLOAT16, "cuda"], errors[BFLOAT16, "cpu"], strict=True):
        assert 0 < gpu <= 1.5 * cpu
