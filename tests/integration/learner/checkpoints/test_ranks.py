"""A checkpoint of some ranks goes on with others: 1, then 2, then 1; whatever the stage, dtype and networks."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from tests.support.learner.kit import make_spec, model_directory, run_ranks  # noqa: E402

LORA = {"rank": 3, "alpha": 6.0}
CASES: dict[str, dict[str, Any]] = {
    "stage-0": {"stages": [0, 0, 0]},
    "stage-1": {"stages": [1, 1, 1]},
    "stage-2": {"stages": [2, 2, 2]},
    "stage-3": {"stages": [3, 3, 3]},
    "other-stages": {"stages": [0, 3, 2]},
    "bfloat16": {"stages": [0, 0, 0], "dtype": "bfloat16"},
    "bfloat16-2": {"stages": [2, 2, 2], "dtype": "bfloat16"},
    "bfloat16-other-stages": {"stages": [3, 1, 2], "dtype": "bfloat16"},
    "lora-3": {"stages": [3, 3, 3], "lora": LORA, "full": [1]},
    "lora-bfloat16-2": {"stages": [2, 2, 2], "lora": LORA, "dtype": "bfloat16"},
    "value": {"stages": [0, 0, 0], "gae": True, "full": [0]},
    "value-bfloat16-3": {"stages": [3, 3, 3], "gae": True, "dtype": "bfloat16"},
    "reference": {"stages": [3, 3, 3], "reference": True},
    "optimizer-offload": {"stages": [2, 2, 2], "offload": "optimizer"},
    "parameter-offload": {"stages": [3, 3, 3], "offload": "parameters"},
}
"""By name: the stage of each life, and what else is special. On the `full` ranks no memory is free for copies."""
RANKS = (1, 2, 1)
"""Of each life; the next one begins at the checkpoint of the one before."""
BATCHES = 1
"""Of each life."""


def case_spec(model_dir: Path, case: dict[str, Any], life: int) -> dict[str, Any]:
    algorithm: dict[str, Any] = {"advantage_estimator": "gae"} if case.get("gae") else {}
    if case.get("reference"):
        algorithm = {"kl_coefficient": 0.05, "reference_refresh_steps": 2}
    spec = make_spec(model_dir, stage=case["stages"][life], budget=60, **algorithm)
    spec["model"]["dtype"] = case.get("dtype", "float32")
    spec["training"]["offload"] = case.get("offload", "none")
    # With its usual epsilon AdamW's first step is the gradient's sign, and that of a rounding error counts in full.
    spec["optimizer"] = {"learning_rate": 1e-2, "epsilon": 1e-3, "warmup_steps": 2}
    return spec | ({"lora": case["lora"]} if "lora" in case else {})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By case: a run with one rank and no break, and the three lives of another."""
    folder = tmp_path_factory.mktemp("ranks")
    model_dir = model_directory(folder)

    def cases(life: int, batches: int, **fields: Any) -> list[dict[str, Any]]:
        common = {"batches": batches, "samples": 8, "late": life < 2, **fields}
        return [
            {
                "spec": case_spec(model_dir, case, life),
                "run_dir": str(folder / name),
                "full": case.get("full", []),
                **common,
            }
            for name, case in CASES.items()
        ]

    lives = []
    for life in range(len(RANKS)):
        end = BATCHES * (life + 1)
        lives.append(cases(life, end, checkpoint_after=end, resume=life > 0))
        if life == 0:
            lives[0] += cases(life, BATCHES * len(RANKS))
    results = [run_ranks(folder, life, ranks) for life, ranks in zip(lives, RANKS, strict=True)]
    whole = results[0][len(CASES) :]
    return {name: [whole[place], *(result[place] for result in results)] for place, name in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_what_was_saved_is_loaded_bit_for_bit(found: dict[str, list[dict[str, Any]]], case: str) -> None:
    _, first, second, third = found[case]
    for saved, loaded in ((first["saved"], second["loaded"]), (second["saved"], third["loaded"])):
        assert loaded == saved
    # Where each rank has room, another batch was trained between the copies and the writing.
    for life, ranks in ((first, RANKS[0]), (second, RANKS[1])):
        assert life["beside"] == all(rank >= ranks for rank in CASES[case].get("full", []))
    for saved in (first["saved"], second["saved"]):
        assert len(saved["policy"]) > 1
        assert bool(saved["value"]) == CASES[case].get("gae", False)


@pytest.mark.parametrize("case", CASES)
def test_the_run_goes_on_as_one_that_was_never_interrupted(found: dict[str, list[dict[str, Any]]], case: str) -> None:
    whole, *lives = found[case]
    rounding = 2e-2 if CASES[case].get("dtype") == "bfloat16" else 1e-4
    metrics = [metrics for life in lives for metrics in life["metrics"]]
    assert len(metrics) == len(whole["metrics"]) == BATCHES * len(RANKS)
    for one, wanted in zip(metrics, whole["metrics"], strict=True):
        for name in ("loss", "grad_norm", "lr"):
            assert one[name] == pytest.approx(wanted[name], rel=rounding, abs=rounding / 10), name
    for network in ("parameters", "value"):
        assert lives[-1][network].keys() == whole[network].keys()
        for name, values in whole[network].items():
            assert lives[-1][network][name][:16] == pytest.approx(values[:16], rel=rounding, abs=rounding / 10), name
            assert lives[-1][network][name][-1] == pytest.approx(values[-1], rel=rounding), name


def test_fingerprints_and_random_numbers_do_not_depend_on_who_reads_them(
    found: dict[str, list[dict[str, Any]]],
) -> None:
    """One rank without ZeRO and two at stage 3 read the same model; a rank that was not there draws its own numbers."""
    plain = found["stage-0"][1:]
    assert plain[1]["loaded"]["fingerprint"] == plain[0]["saved"]["fingerprint"]
    mixed = found["other-stages"][1:]
    assert mixed[1]["loaded"]["fingerprint"] == mixed[0]["saved"]["fingerprint"] == plain[0]["saved"]["fingerprint"]
    randoms = {name: lives[2]["random"] for name, lives in found.items()}
    assert all(len(set(pair)) == 2 for pair in randoms.values())
    assert randoms["stage-0"][1] == randoms["stage-3"][1]
