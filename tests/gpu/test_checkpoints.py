"""Checkpoints that a GPU wrote: read by a GPU and by a CPU, and the other way round."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from tests.support.learner.kit import make_spec, model_directory, run_ranks  # noqa: E402

CASES: dict[str, dict[str, Any]] = {
    "float32-0": {"stage": 0},
    "float32-1": {"stage": 1},
    "float32-3": {"stage": 3},
    "bfloat16-1": {"stage": 0, "dtype": "bfloat16"},
    "bfloat16-2": {"stage": 2, "dtype": "bfloat16"},
    "bfloat16-3": {"stage": 3, "dtype": "bfloat16"},
    "offload-2": {"stage": 2, "offload": "optimizer"},
    "value": {"stage": 0, "gae": True},
}
LIVES = (("cuda", 2), ("cuda", 4), ("cpu", 6), ("cuda", 8))
"""Device, and the batch that it ends at with a checkpoint."""


def case_spec(model: Path, case: dict[str, Any]) -> dict[str, Any]:
    algorithm = {"advantage_estimator": "gae"} if case.get("gae") else {}
    spec = make_spec(model, stage=case["stage"], budget=60, **algorithm)
    spec["model"]["dtype"] = case.get("dtype", "float32")
    spec["training"]["offload"] = case.get("offload", "none")
    spec["optimizer"] = {"learning_rate": 1e-2, "epsilon": 1e-3, "warmup_steps": 2}
    return spec


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By case: its lives; last a run on the GPU of four batches without a break."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = model_directory(folder)

    def cases(**fields: Any) -> list[dict[str, Any]]:
        return [
            {"spec": case_spec(model, case), "run_dir": str(folder / name), "samples": 12, **fields}
            for name, case in CASES.items()
        ]

    results = [
        run_ranks(folder, cases(batches=end, checkpoint_after=end, resume=life > 0), 1, device)
        for life, (device, end) in enumerate(LIVES)
    ]
    results.append(run_ranks(folder, cases(batches=4), 1, "cuda"))
    return {name: [result[place] for result in results] for place, name in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("life", [1, 2, 3], ids=["gpu-to-gpu", "gpu-to-cpu", "cpu-to-gpu"])
def test_what_was_saved_is_loaded_bit_for_bit(found: dict[str, list[dict[str, Any]]], case: str, life: int) -> None:
    """Weights, moments, counts of updates, and the fingerprint; not sums, which devices add in orders of their own."""
    saved, loaded = (
        {key: state[key] for key in ("policy", "value", "fingerprint")}
        for state in (found[case][life - 1]["saved"], found[case][life]["loaded"])
    )
    assert len(saved["policy"]) > 1
    assert bool(saved["value"]) == ("gae" in CASES[case])
    assert loaded == saved


@pytest.mark.parametrize("case", CASES)
def test_random_numbers_go_on_where_they_were(found: dict[str, list[dict[str, Any]]], case: str) -> None:
    """The host's and the GPU's."""
    assert found[case][1]["random"] == found[case][0]["drawn"]


@pytest.mark.parametrize("case", CASES)
def test_a_step_behind_a_checkpoint_comes_out_the_same(
    found: dict[str, list[dict[str, Any]]], case: str, figures: Any
) -> None:
    """Bit for bit at these sizes; whether kernels of larger ones are deterministic is the replay's to tell."""
    life, whole = found[case][1], found[case][-1]
    norms = [[metrics["grad_norm"] for metrics in one["metrics"]] for one in (life, whole)]
    figures(equal=life["parameters"] == whole["parameters"], norms=norms)
    assert norms[0] == pytest.approx(norms[1][2:], rel=1e-2 if CASES[case].get("dtype") else 1e-5)


def test_a_learner_on_the_cpu_leaves_the_gpu_alone(tmp_path: Path) -> None:
    """Its checkpoints have the host's random state alone, though torch sees a GPU."""
    model = model_directory(tmp_path)
    case = {"spec": case_spec(model, CASES["float32-0"]), "batches": 1, "samples": 12, "checkpoint_after": 1}
    for device, states in (("cpu", {"cpu"}), ("cuda", {"cpu", "cuda"})):
        folder = tmp_path / device
        folder.mkdir()
        run_ranks(folder, [case], 1, device)
        (path,) = folder.glob("checkpoints/*/rng-rank0.pt")
        assert torch.load(path, weights_only=True).keys() == states
