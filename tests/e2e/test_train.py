"""The main job, end to end: `dapo train` with every service as a process of its own and every engine real."""

import json
import signal
import subprocess
import time
from pathlib import Path
from statistics import fmean

import pytest

from tests.e2e.conftest import DAPO, Platform, read_metrics
from tests.support.paths import REPO

pytestmark = pytest.mark.timeout(900)

STEP_KEYS = {
    "step",
    "policy_version",
    "accuracy_mean",
    "reward_mean",
    "response_length_mean",
    "truncated_share",
    "entropy",
    "keep_rate",
    "staleness_mean",
    "staleness_max",
    "mismatch_kl",
    "clip_fraction_low",
    "clip_fraction_high",
    "loss",
    "grad_norm",
    "lr",
    "generated_tokens_per_s",
    "generator_idle",
    "learner_idle",
    "weight_sync_s",
    "step_s",
}


def run_to_end(platform: Platform, run_dir: Path, **settings: object) -> tuple[list[dict], dict, str]:
    process = platform.start(*platform.train(run_dir, **settings))
    output, _ = process.communicate(timeout=840)
    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in run_dir.glob("logs/*.log"))
    assert process.returncode == 0, f"{output}\n{logs}"
    assert platform.left_behind() == []
    return read_metrics(run_dir), json.loads((run_dir / "summary.json").read_text()), output


def check_ledger(summary: dict) -> None:
    """Every issued group is accounted for, and none failed or waits."""
    ledger = summary["ledger"]
    assert sum(ledger.values()) == summary["issued_groups"]
    settled = {"trained", "filtered", "surplus", "stale"}
    assert {state for state, count in ledger.items() if count} <= settled, ledger


def test_training_raises_sampled_accuracy(platform: Platform, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    metrics, summary, output = run_to_end(platform, run_dir, training__steps=40, checkpoint__every_steps=20)

    assert [row["step"] for row in metrics] == list(range(1, 41))
    assert [row["policy_version"] for row in metrics] == list(range(1, 41))
    unmeasured = [(row["step"], key) for row in metrics for key in sorted(STEP_KEYS) if row.get(key) is None]
    assert not unmeasured
    assert max(row["staleness_max"] for row in metrics) <= 1
    start = fmean(row["accuracy_mean"] for row in metrics[:3])
    end = fmean(row["accuracy_mean"] for row in metrics[-5:])
    assert end - start >= 0.2, [round(row["accuracy_mean"], 3) for row in metrics]
    check_ledger(summary)

    for name in ("spec.yaml", "provenance.json", "summary.json", "curves.png", "checkpoints", "logs"):
        assert (run_dir / name).exists(), name
    assert str(run_dir / "curves.png") in output.replace("\n", "")

    exported = tmp_path / "exported"
    subprocess.run([DAPO, "export", run_dir, exported], check=True, cwd=REPO)
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported)
    ids = tokenizer("abcde>", return_tensors="pt")["input_ids"]
    reply = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert len(reply) >= 1


PROMISED = {
    "ppo": {"value_loss", "value_grad_norm", "explained_variance"},
    "grpo": {"kl_reference"},
}
"""Metrics of one preset that the others do not have."""


@pytest.mark.parametrize(
    ("preset", "settings"), [("ppo", {"value__learning_rate": 1e-3}), pytest.param("grpo", {}, marks=pytest.mark.slow)]
)
def test_ancestors_train_too(platform: Platform, tmp_path: Path, preset: str, settings: dict[str, object]) -> None:
    metrics, summary, _ = run_to_end(
        platform, tmp_path / "run", algorithm__preset=preset, training__steps=20, checkpoint__every_steps=20, **settings
    )
    for name in set.union(*PROMISED.values()):
        assert all((row[name] is not None) == (name in PROMISED[preset]) for row in metrics), name
    start = fmean(row["accuracy_mean"] for row in metrics[:3])
    end = fmean(row["accuracy_mean"] for row in metrics[-5:])
    assert end - start >= 0.08, [round(row["accuracy_mean"], 3) for row in metrics]
    # Without dynamic sampling every group is trained on.
    assert summary["ledger"].get("filtered", 0) == 0
    check_ledger(summary)


@pytest.mark.slow
def test_synchronous_with_two_generators_and_two_ranks(platform: Platform, tmp_path: Path) -> None:
    metrics, summary, _ = run_to_end(
        platform,
        tmp_path / "run",
        training__steps=4,
        training__zero_stage=2,
        asynchrony__max_staleness=0,
        resources__generator__replicas=2,
        resources__learner__ranks=2,
    )
    assert len(metrics) == 4
    assert all(row["staleness_max"] == 0 for row in metrics)
    check_ledger(summary)


@pytest.mark.slow
def test_far_ahead_with_zero_3(platform: Platform, tmp_path: Path) -> None:
    metrics, summary, _ = run_to_end(
        platform, tmp_path / "run", training__steps=6, training__zero_stage=3, asynchrony__max_staleness=4
    )
    assert len(metrics) == 6
    assert max(row["staleness_max"] for row in metrics) <= 4
    check_ledger(summary)


def test_interrupt_ends_everything(platform: Platform, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = platform.start(*platform.train(run_dir, training__steps=1000))
    wait_for_steps(process, run_dir, 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert platform.left_behind() == []
    assert json.loads((run_dir / "summary.json").read_text())["state"] == "stopped"


@pytest.mark.slow
def test_an_interrupt_that_comes_too_late_changes_nothing(platform: Platform, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = platform.start(*platform.train(run_dir, training__steps=2))
    while process.poll() is None and not (run_dir / "summary.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert json.loads((run_dir / "summary.json").read_text())["state"] == "succeeded"
    assert "succeeded" in output
    assert "interrupted" not in output
    assert process.returncode == 0, output
    assert platform.left_behind() == []


def wait_for_steps(process: subprocess.Popen[str], run_dir: Path, steps: int) -> None:
    while process.poll() is None:
        metrics = run_dir / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= steps:
            return
        time.sleep(0.2)
    raise AssertionError(f"the run ended early:\n{process.stdout.read() if process.stdout else ''}")
