"""Evaluation while training and after it, by the `dapo` command, with every engine real."""

import json
import subprocess
from pathlib import Path

import pytest

from dapo.records.evaluations import read_evaluations
from tests.e2e.conftest import DAPO, Platform
from tests.support.paths import REPO, SHARED

pytestmark = pytest.mark.timeout(900)
GSM8K = SHARED / "data" / "gsm8k_test_300.jsonl"


def test_a_run_is_evaluated_on_the_way_and_compared_with_its_base(platform: Platform, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = {"data__held_out_share": 0.01, "evaluation__every_steps": 10, "evaluation__samples": 4}
    process = platform.start(*platform.train(run_dir, training__steps=20, checkpoint__every_steps=20, **settings))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert platform.left_behind() == []
    rows = read_evaluations(run_dir)
    assert [(row["set"], row["step"]) for row in rows] == [("held-out", 0), ("held-out", 10), ("held-out", 20)]
    assert (rows[0]["version_min"], rows[0]["version_max"]) == (0, 0)
    assert (rows[-1]["version_min"], rows[-1]["version_max"]) == (20, 20)
    assert rows[-1]["avg_at_k"]["low"] > rows[0]["avg_at_k"]["value"], "twenty steps of training are not to be seen"
    assert "evaluation of step 20, held-out: avg@4" in output
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["ledger"]["evaluated"] == sum(row["problems"] for row in rows)
    assert sum(summary["ledger"].values()) == summary["issued_groups"]

    report = tmp_path / "report.json"
    out = tmp_path / "eval"
    command = ("eval", run_dir, "--base", "--samples", "2", "--out", out, "--json", report)
    process = platform.start(*command)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert platform.left_behind() == []
    compared = json.loads(report.read_text())["held-out"]
    assert list(compared) == ["model (base)", "run"]
    assert compared["run"]["samples"] == 2
    assert compared["run"]["gain"]["low"] > 0
    assert (out / "evaluation.png").exists()

    shown = subprocess.run(
        [DAPO, "runs", "samples", run_dir, "--compare"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout
    assert "step 0" in shown
    assert "step 20" in shown


@pytest.mark.slow
@pytest.mark.skipif(not GSM8K.exists(), reason=f"{GSM8K} is not here")
def test_a_pretrained_model_trains_on_gsm8k_and_is_evaluated_before_and_after(
    platform: Platform, tmp_path: Path
) -> None:
    subprocess.run([DAPO, "model", "smollm2", tmp_path], check=True, cwd=REPO, capture_output=True)
    settings = {
        "model.path": tmp_path / "model",
        "data.path": GSM8K,
        "data.held_out_share": 0.01,
        "evaluation.samples": 2,
        "reward.grader": "math_verify",
        "sampling.group_size": 2,
        "training.prompts_per_step": 2,
        "training.updates_per_step": 1,
        "training.steps": 2,
    }
    run_dir = tmp_path / "run"
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    process = platform.start("train", "examples/smollm2-math.yaml", "--run-dir", run_dir, *sets)
    output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    assert platform.left_behind() == []
    rows = read_evaluations(run_dir)
    assert [row["step"] for row in rows] == [0, 2]
    assert all(row["problems"] > 0 and row["failed_problems"] == 0 for row in rows)
    samples = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    assert {sample["grader"] for sample in samples} == {"math_verify"}
    assert all(response["text"].strip() for sample in samples for response in sample["responses"])
