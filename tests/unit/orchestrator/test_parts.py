"""Meters, recorder and provenance."""

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.identity import RunDirError, RunIdentity, new_run_id
from dapo.spec.load import parse_spec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.step_metrics import GeneratorMeter, learner_idle
from services.orchestrator.records.provenance import git_commit, model_hashes, package_versions
from services.orchestrator.records.recorder import Recorder

SPEC = json.dumps({"model": {"path": "./m"}, "data": {"path": "d.jsonl"}})


def test_run_ids_sort_by_time_and_differ():
    ids = {new_run_id("reverse", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) for _ in range(50)}
    assert len(ids) > 1
    assert all(run_id.startswith("reverse-20260102-030405-") and len(run_id) == 28 for run_id in ids)


def member(name: str, tokens: int, busy: float, up: float) -> pb.Member:
    return pb.Member(generator_id=name, generated_tokens=tokens, busy_s=busy, up_s=up)


def test_rates_come_from_what_the_counters_grew_by():
    meter = GeneratorMeter()
    assert "generated_tokens_per_s" not in meter.measure([member("a", 100, 1, 10)], 50.0)
    rates = meter.measure([member("a", 300, 4, 20), member("b", 50, 1, 2)], 60.0)
    assert rates == {
        "generated_tokens": 350,
        "generated_tokens_per_s": 25.0,
        "generator_idle": pytest.approx(1 - 4 / 12),
        "generators": 2,
    }


def test_a_generator_counts_from_when_it_serves():
    """Its engine takes 100 s to start."""
    meter, starting = GeneratorMeter(), member("b", 0, 0, 95)
    starting.state = "starting"
    meter.measure([member("a", 0, 0, 5), starting], 0.0)
    starting.up_s = 100
    rates = meter.measure([member("a", 100, 10, 15), starting], 10.0)
    assert rates == {
        "generated_tokens": 100,
        "generated_tokens_per_s": 10.0,
        "generator_idle": 0.0,
        "generators": 1,
    }
    rates = meter.measure([member("a", 200, 20, 25), member("b", 50, 5, 110)], 20.0)
    assert (rates["generator_idle"], rates["generators"]) == (pytest.approx(0.25), 2)


@given(st.floats(0.05, 1.9), st.integers(1, 4))
def test_steps_between_two_beats_have_the_rate_of_those_before(step_s: float, generators: int) -> None:
    """Generators tell of their counters every two seconds, at moments of their own."""
    meter = GeneratorMeter()
    rates = []
    for step in range(round(30 / step_s)):
        now_s = step * step_s
        beats = [2.0 * ((now_s + at / generators) // 2.0) + 2.0 for at in range(generators)]
        found = meter.measure(
            [member(f"g{at}", round(100 * up_s), up_s / 4, up_s) for at, up_s in enumerate(beats)], now_s
        )
        rates += [found] if now_s >= 4.0 else []
    assert [one["generated_tokens_per_s"] for one in rates] == [pytest.approx(100.0 * generators)] * len(rates)
    assert [one["generator_idle"] for one in rates] == [pytest.approx(0.75)] * len(rates)


def test_before_a_second_beat_no_rate_is_known_and_none_is_made_up():
    meter = GeneratorMeter()
    for now_s in (0.0, 0.5, 1.0):
        assert meter.measure([member("a", 100, 1, 10)], now_s) == {"generated_tokens": 100}


def test_a_generator_that_finishes_nothing_has_a_rate_of_zero():
    meter = GeneratorMeter()
    for now_s in (0.0, 5.0, 10.0):
        rates = meter.measure([member("a", 100, 1, 10 + now_s)], now_s)
    assert rates["generated_tokens_per_s"] == 0.0


def test_a_generator_started_anew_counts_from_zero():
    meter = GeneratorMeter()
    meter.measure([member("a", 1000, 90, 100)], 0.0)
    rates = meter.measure([member("a", 40, 3, 4)], 10.0)
    assert rates == {
        "generated_tokens": 1040,
        "generated_tokens_per_s": 4.0,
        "generator_idle": 0.25,
        "generators": 1,
    }


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
