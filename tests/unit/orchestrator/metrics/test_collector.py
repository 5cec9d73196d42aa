"""What a scrape of the run service answers, without runs and with one that goes on."""

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.core import Metric

from dapo.bus.ledger import GroupState
from dapo.bus.measures import Measures
from dapo.contracts.events import Alert
from dapo.records.checkpoints import Manifest, mark, write_manifest
from dapo.records.identity import RunIdentity
from dapo.telemetry.exported import EXPORTED, STEP_GAUGES
from dapo.telemetry.exposition import answer
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.api.operations import Operations
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus
from services.orchestrator.metrics import collector as module
from services.orchestrator.records.mirror import Mirror
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.events import RunEvents, WatchedEvent
from services.orchestrator.runs.measured.gauges import Counted, Gauges
from services.orchestrator.runs.outcome import Standing
from services.orchestrator.runs.redis import RunRedis
from services.orchestrator.runs.tenure import Tenure
from tests.support.orchestrator.faces import rest_of
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.spec import spec

RUN = "first"
LABELS = {"run": RUN}
MEASURES = Measures(
    groups={GroupState.ISSUED: 3, GroupState.TRAINED: 8},
    issued=11,
    dead_letters=2,
    streams={"prompts": 3, "completions": 5},
    members=[
        pb.Member(generator_id="generator-0", state="ready", version=pb.Version(incarnation=1, step=4)),
        pb.Member(generator_id="generator-1", state="starting"),
        pb.Member(generator_id="evaluation-generator-0", state="ready", version=pb.Version(step=4), evaluates=True),
    ],
    alive=frozenset({"generator-0", "generator-1", "learner-0"}),
)


def worker(name: str, role: Any, state: WorkerState = WorkerState.RUNNING) -> WorkerStatus:
    return WorkerStatus(name, role, state)


@pytest.fixture
def driver(tmp_path: Path) -> Any:
    """The parts of a run that goes on, of which a scrape reads."""
    wanted = spec(name="toy", training__steps=9, resources__generator__replicas=2)
    recorder = Recorder.create(tmp_path / RUN, wanted, RunIdentity(RUN, "2026-01-01T00:00:00.000+00:00"))
    recorder.record_step({"step": 1, "entropy": 0.5, "step_s": float("nan")})
    recorder.evaluations = [{"set": "aime", "step": 0, "avg_at_k": 0.1}, {"set": "aime", "step": 1, "avg_at_k": 0.25}]
    redis = RunRedis(RUN, recorder.run_dir, wanted.resources, "redis://127.0.0.1:1/0")
    tenure, events = Tenure("me"), RunEvents(recorder.run_dir)
    tenure.epoch = 17
    for number in (1, 2):
        events._keep(WatchedEvent(f"{number}-0", Alert(message="m", cause="payload_unusable")))
    gauges = Gauges(recorder, redis, tenure, Standing(), events, Mirror(wanted, recorder, events))
    gauges._standing.change("running", "")
    statuses = [
        worker("generator-0", "generator"),
        worker("generator-1", "generator", WorkerState.EXITED),
        worker("verifier-0", "verifier"),
        worker("learner-0", "learner"),
    ]
    gauges.monitor = SimpleNamespace(statuses=statuses, restarts=3)  # type: ignore[assignment]
    yield SimpleNamespace(run_id=RUN, spec=wanted, gauges=gauges, over=False)
    recorder.close()


def scrape(
    driver: Any, monkeypatch: pytest.MonkeyPatch, *, answers: bool = True, asked: list[Any] | None = None
) -> dict[str, Metric]:
    async def count(runs: object) -> dict[str, Counted]:
        if asked is not None:
            asked.append(runs)
        return {RUN: Counted(MEASURES, 4096)} if answers else {}

    monkeypatch.setattr(module, "count", count)
    service = RunService(FakeLauncher(), state_dir=driver.gauges._recorder.run_dir.parent)
    monkeypatch.setattr(service, "under_way", lambda: [driver])
    driver.gauges._redis.bus = object()
    found = asyncio.run(Operations(service).collector.collect())
    return {one.samples[0].name if one.type == "counter" and one.samples else one.name: one for one in found}


def values(metric: Metric) -> dict[tuple[str, ...], float]:
    """By the values of its labels but the run."""
    return {
        tuple(value for name, value in sample.labels.items() if name != "run"): sample.value
        for sample in metric.samples
    }


def test_a_run_is_exported_with_what_its_redis_says(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scrape(driver, monkeypatch)
    expected: dict[str, dict[tuple[str, ...], float]] = {
        "dapo_run_info": {("toy", "running"): 1},
        "dapo_run_steps_planned": {(): 9},
        "dapo_run_staleness_limit_versions": {(): 1},
        "dapo_run_step": {(): 1},
        "dapo_run_entropy_nats": {(): 0.5},
        "dapo_run_step_seconds": {},
        "dapo_run_groups": {("issued",): 3, ("trained",): 8},
        "dapo_run_groups_issued_total": {(): 11},
        "dapo_run_dead_letters": {(): 2},
        "dapo_run_stream_entries": {("prompts",): 3, ("completions",): 5},
        "dapo_run_payload_bytes": {(): 4096},
        "dapo_run_redis_up": {(): 1},
        "dapo_run_alerts_total": {("warning", "payload_unusable"): 2},
        "dapo_run_restarts_total": {(): 3},
        "dapo_run_lease_epoch": {(): 17},
        "dapo_run_checkpoint_interval_steps": {(): 5},
        "dapo_run_checkpoint_step": {},
        "dapo_run_mirror_step": {},
        "dapo_run_generators_wanted": {(): 2},
        "dapo_run_generators_ready": {(): 1},
        "dapo_run_workers_wanted": {("generator",): 2, ("verifier",): 1, ("learner",): 1},
        "dapo_run_workers": {
            ("generator", "running"): 1,
            ("generator", "exited"): 1,
            ("verifier", "silent"): 1,
            ("learner", "running"): 1,
        },
        "dapo_run_evaluation_step": {("aime",): 1},
        "dapo_run_evaluation_avg_at_k_ratio": {("aime",): 0.25},
    }
    assert {name: values(found[name]) for name in expected} == expected
    assert values(found["dapo_runs"])["running",] == 1
    (progress,) = values(found["dapo_run_progress_timestamp_seconds"]).values()
    assert time.time() - 60 < progress <= time.time()
    assert values(found["dapo_run_payload_limit_bytes"])[()] == driver.spec.resources.redis.memory_mib * 2**20
    of_runs = [one for one in found.values() if one.name.startswith("dapo_run_")]
    assert {sample.labels["run"] for one in of_runs for sample in one.samples} == {RUN}


def test_how_far_a_mirror_is_is_exported(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.gauges._mirror = SimpleNamespace(step=4)
    assert values(scrape(driver, monkeypatch)["dapo_run_mirror_step"]) == {(): 4}


def test_what_an_autoscaler_of_the_cluster_made_is_wanted_too(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [worker(f"generator-{index}", "generator") for index in range(5)]
    driver.gauges.monitor.statuses = [*more, worker("evaluation-generator-0", "generator")]
    asked: list[Any] = []
    found = scrape(driver, monkeypatch, asked=asked)
    assert values(found["dapo_run_workers_wanted"]) == {("generator",): 6}
    assert values(found["dapo_run_generators_wanted"]) == {(): 5}
    assert len(asked[0][RUN][1]["generator"]) == 6
    driver.gauges.monitor = None
    assert values(scrape(driver, monkeypatch)["dapo_run_generators_wanted"]) == {(): 2}


def test_a_run_that_waits_for_its_workers_has_no_progress_to_make_and_nothing_to_lose(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.gauges._standing = Standing("starting")
    found = scrape(driver, monkeypatch)
    for name in ("dapo_run_progress_timestamp_seconds", "dapo_run_checkpoint_timestamp_seconds"):
        assert values(found[name]) == {}


def test_progress_is_the_newest_of_what_was_recorded_and_the_begin(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, standing = driver.gauges._recorder, driver.gauges._standing
    recorder.progress_at, standing.running_at = 100.0, 200.0
    assert values(scrape(driver, monkeypatch)["dapo_run_progress_timestamp_seconds"]) == {(): 200}
    recorder.progress_at = 300.0
    assert values(scrape(driver, monkeypatch)["dapo_run_progress_timestamp_seconds"]) == {(): 300}


def test_what_a_crash_would_cost_is_counted_from_the_checkpoint_or_from_the_begin(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(running_at: float) -> list[dict[tuple[str, ...], float]]:
        driver.gauges._standing.running_at = running_at
        found = scrape(driver, monkeypatch)
        return [values(found[f"dapo_run_checkpoint_{what}"]) for what in ("step", "timestamp_seconds")]

    assert saved(500) == [{}, {(): 500}]
    root = driver.gauges.checkpoints
    (root / "step-000005.e1").mkdir(parents=True)
    write_manifest(root / "step-000005.e1", Manifest(5, 1, 0, 1, 0, "float32", {}))
    os.utime(root / "step-000005.e1/manifest.json", (1_000, 1_000))
    assert saved(500) == [{}, {(): 500}], "it does not count yet"
    mark(root, 1, ["step-000005.e1"])
    assert saved(500) == [{(): 5}, {(): 1_000}]
    assert saved(1_500) == [{(): 5}, {(): 1_500}], "resumed from it"
    (root / "latest.e1.json").write_text("{")
    assert saved(500) == [{}, {(): 500}], "nobody could resume from it"
    untrained = driver.spec.training.model_copy(update={"steps": 0})
    driver.spec = driver.spec.model_copy(update={"training": untrained})
    assert saved(500) == [{}, {}]


def test_a_run_whose_redis_is_silent_is_exported_without_what_is_there(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scrape(driver, monkeypatch, answers=False)
    assert values(found["dapo_run_redis_up"]) == {(): 0}
    assert values(found["dapo_run_entropy_nats"]) == {(): 0.5}
    for name in ("dapo_run_groups", "dapo_run_payload_bytes", "dapo_run_generators_ready"):
        assert not found[name].samples
    assert ("verifier", "running") in values(found["dapo_run_workers"])


def test_every_metric_of_the_service_is_in_every_scrape(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scrape(driver, monkeypatch)
    exported = {one.name for one in found.values()} | set(found)
    declared = [one.name for one in EXPORTED if one.exporter == "orchestrator"]
    assert [name for name in declared if not {name, name.removesuffix("_total")} & exported] == []
    assert {gauge.name for gauge in STEP_GAUGES.values()} <= exported


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_against_it(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = answer([one for one in scrape(driver, monkeypatch).values() if one.name.startswith("dapo_")]).body
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_service_without_runs_answers_over_rest(tmp_path: Path) -> None:
    rest = rest_of(tmp_path)
    found = rest.get("/metrics")
    assert found.status_code == 200
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "\ndapo_runs_led 0.0\n" in found.text
    assert "process_cpu_seconds_total" in found.text
    assert "dapo_run_info{" not in found.text
    assert rest.get("/metrics/targets").json() == []
    assert rest.get("/metrics/none").status_code == 404


def test_requests_are_observed_by_route_and_outcome(tmp_path: Path) -> None:
    rest = rest_of(tmp_path)
    for path in ("/v1/runs", "/v1/runs/none", "/nowhere"):
        rest.get(path)
    text = rest.get("/metrics").text
    for operation, outcome in (("list_runs", "ok"), ("get_run", "refused"), ("none", "refused")):
        assert f'request_seconds_count{{face="rest",operation="{operation}",outcome="{outcome}"}}' in text
