"""Access, meters, recorder and provenance."""

import json
import math
from datetime import UTC, datetime

import pytest

from dapo.records.identity import RunDirError, RunIdentity
from dapo.spec.load import parse_spec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.api.access import UnsafeBind, check_bind, is_authorised
from services.orchestrator.control.step_metrics import GeneratorMeter, learner_idle
from services.orchestrator.records.provenance import git_commit, model_hashes, package_versions
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.service import new_run_id

SPEC = json.dumps({"model": {"path": "./m"}, "data": {"path": "d.jsonl"}})


def test_beyond_loopback_only_with_a_token():
    for host in ("127.0.0.1", "::1", "localhost"):
        check_bind(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        check_bind(host, "secret")
        with pytest.raises(UnsafeBind, match="DAPO_API_TOKEN"):
            check_bind(host, None)


@pytest.mark.parametrize(
    ("header", "allowed"),
    [("Bearer s3", True), ("bearer s3", True), ("Bearer s4", False), ("s3", False), ("", False), (None, False)],
)
def test_the_bearer_token(header, allowed):
    assert is_authorised(header, "s3") is allowed
    assert is_authorised(header, None)


def test_run_ids_sort_by_time_and_differ():
    ids = {new_run_id("reverse", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) for _ in range(50)}
    assert len(ids) > 1
    assert all(run_id.startswith("reverse-20260102-030405-") and len(run_id) == 28 for run_id in ids)


def member(name: str, tokens: int, busy: float, up: float) -> pb.Member:
    return pb.Member(generator_id=name, generated_tokens=tokens, busy_s=busy, up_s=up)


def test_rates_come_from_what_the_counters_grew_by():
    meter = GeneratorMeter()
    assert "generated_tokens_per_s" not in meter.measure([member("a", 100, 1, 10)], 50.0)
    rates = meter.measure([member("a", 300, 4, 14), member("b", 50, 1, 2)], 60.0)
    assert rates == {
        "generated_tokens": 350,
        "generated_tokens_per_s": 25.0,
        "generator_idle": pytest.approx(1 - 4 / 6),
    }


def test_a_generator_started_anew_counts_from_zero():
    meter = GeneratorMeter()
    meter.measure([member("a", 1000, 90, 100)], 0.0)
    rates = meter.measure([member("a", 40, 3, 4)], 10.0)
    assert rates == {"generated_tokens": 1040, "generated_tokens_per_s": 4.0, "generator_idle": 0.25}


def test_learner_idle():
    assert learner_idle({"learner_wait_s": 1.0, "step_s": 4.0}) == 0.25
    assert math.isnan(learner_idle({"step_s": 4.0}))


def test_the_run_folder(tmp_path):
    spec = parse_spec(SPEC)
    recorder = Recorder.create(tmp_path / "run", spec, RunIdentity("r-1", "2026-01-02T03:04:05.000+00:00"))
    for step in range(1, 13):
        row = {"step": step, "accuracy_mean": step / 20, "loss": math.nan, "generated_tokens": step}
        row = recorder.record_step(row)
    assert row["loss"] is None
    assert row["entropy"] is None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))
    summary = recorder.summary(state="succeeded", message="", ledger={}, issued=3, restarts=0, elapsed_s=1.5)
    recorder.write_summary(summary)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["accuracy_start"], summary["accuracy_end"]) == (pytest.approx(0.15), pytest.approx(0.5))
    assert (summary["steps"], summary["generated_tokens"], summary["reward_end"]) == (12, 12, None)
    assert parse_spec((tmp_path / "run" / "spec.yaml").read_text()) == spec
    with pytest.raises(RunDirError, match="already holds a run"):
        Recorder.create(tmp_path / "run", spec, RunIdentity("r-2", "2026-01-02T03:04:05.000+00:00"))


@pytest.mark.parametrize(("steps", "averaged"), [(1, 1), (2, 1), (3, 1), (5, 2), (9, 4), (10, 5), (30, 5)])
def test_no_step_of_a_short_run_is_both_start_and_end(tmp_path, steps, averaged):
    recorder = Recorder.create(tmp_path, parse_spec(SPEC), RunIdentity("r-1", "2026-01-02T03:04:05.000+00:00"))
    for step in range(1, steps + 1):
        recorder.record_step({"step": step, "accuracy_mean": float(step)})
    summary = recorder.summary(state="succeeded", message="", ledger={}, issued=0, restarts=0, elapsed_s=1.0)
    assert summary["averaged_steps"] == averaged
    assert summary["accuracy_start"] == (averaged + 1) / 2
    assert summary["accuracy_end"] == steps - (averaged - 1) / 2


def test_a_run_without_steps_has_a_summary_and_no_picture(tmp_path):
    recorder = Recorder.create(tmp_path, parse_spec(SPEC), RunIdentity("r-1", "2026-01-02T03:04:05.000+00:00"))
    summary = recorder.summary(state="failed", message="why", ledger={}, issued=0, restarts=0, elapsed_s=1.0)
    assert (summary["steps"], summary["accuracy_start"], summary["message"]) == (0, None, "why")
    assert recorder.draw() is None


def test_provenance_hashes_the_model_and_names_versions(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    hashes = model_hashes(tmp_path)
    assert hashes["config.json"]["bytes"] == 2
    assert len(hashes["config.json"]["sha256"]) == 64
    assert "note" in model_hashes(tmp_path / "absent")
    assert package_versions()["pydantic"]
    assert git_commit(tmp_path) is None
