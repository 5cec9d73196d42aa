"""A run whose processes are killed goes on to its end, and has lost nothing. More of it: benchmarks/chaos.py."""

import json
from pathlib import Path

import pytest

from benchmarks.survival.audit import Promise, audit
from benchmarks.survival.journal import JournalKeeper
from benchmarks.survival.strikes import Kind, Strike, strike
from tests.e2e.conftest import Platform, read_metrics
from tests.e2e.test_train import wait_for_steps

pytestmark = pytest.mark.timeout(600)

STEPS, PROMPTS = 14, 16
KILLS: tuple[tuple[int, Kind], ...] = ((2, "generator"), (5, "learner"), (8, "verifier"), (10, "redis"))
"""After so many steps, the oldest of its kind."""


def test_a_run_whose_processes_are_killed_loses_nothing(platform: Platform, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = platform.train(
        run_dir,
        training__steps=STEPS,
        training__prompts_per_step=PROMPTS,
        checkpoint__every_steps=3,
        resources__generator__replicas=2,
    )
    with JournalKeeper(run_dir, tmp_path / "journal") as keeper:
        process = platform.start(*settings)
        for steps, kind in KILLS:
            wait_for_steps(process, run_dir, steps)
            assert strike(process.pid, Strike(steps, kind, "kill")), kind
        output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert platform.left_behind() == []

    summary = json.loads((run_dir / "summary.json").read_text())
    journal = keeper.read(summary["run_id"])
    promise = Promise(STEPS, PROMPTS, max_staleness=1)
    assert audit(journal, summary["ledger"], summary["issued_groups"], read_metrics(run_dir), promise) == []
    # Redis is started again by others than the launcher.
    assert summary["restarts"] == len(KILLS) - 1
    assert "replay_differs" not in (run_dir / "events.jsonl").read_text()
