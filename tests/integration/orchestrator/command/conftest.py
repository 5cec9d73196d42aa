"""A run service whose workers are no processes, so that its runs go on until they are stopped; and an ended run."""

import json
from pathlib import Path

import pytest

from dapo.records.identity import RunIdentity, write_identity
from services.orchestrator.records.samples import SampleArchive
from tests.support.orchestrator.run_service import Service
from tests.support.samples import over_steps, sample

ROWS = [{"step": step, "accuracy_mean": step / 10, "step_s": 2.0, "train_s": 1.5} for step in range(1, 6)]
INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}
RECORDED = "recorded"


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("platform"), module="tests.support.orchestrator.fake_service")
    yield running
    running.close()


@pytest.fixture(scope="module")
def recorded(platform) -> Path:
    """Folder of a run that has ended, with metrics, samples, evaluations and a log."""
    folder = platform.folder / "runs" / RECORDED
    (folder / "logs").mkdir(parents=True)
    (folder / "logs/learner-0.log").write_text("one\ntwo \x1b[2J\nthree\n")
    (folder / "spec.yaml").write_text("name: of-old\nmodel: {path: ./m}\ndata: {path: d.jsonl}\n")
    write_identity(folder, RunIdentity(RECORDED, "2026-01-01T00:00:00.000+00:00"))
    ending = {"state": "succeeded", "message": "", "steps": 5, "steps_total": 5, "ledger": {"trained": 40}}
    (folder / "summary.json").write_text(json.dumps(ending))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    archive = SampleArchive(folder, 4)
    for step in range(5):
        archive.add(sample(step, step, [step % 2 == 0, False], row_id=f"train.jsonl:{step}", prompt=f"Add {step}."))
    rows = []
    for step, samples in over_steps().items():
        archive.write_evaluation("aime", step, samples)
        measures = {"problems": len(samples), "avg_at_k": INTERVAL, "pass_at_k": {"3": INTERVAL}, "maj_at_k": None}
        rows.append({"step": step, "set": "aime", "samples": 3, **measures, "truncated_share": 0.25})
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
