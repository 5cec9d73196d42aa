"""Runs with real workers on simulated engines take their turns: each comes to its end as if it had not waited."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.survival import platform, runs
from benchmarks.survival.audit import audit
from benchmarks.survival.journal import JournalKeeper
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from tests.integration.orchestrator.queue.test_queue import act, get, state, until
from tests.integration.orchestrator.survival.test_two_services import toy  # noqa: F401
from tests.support.orchestrator.run_service import Service, create, events

pytestmark = pytest.mark.timeout(600)
STEPS = 6


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """With six cores."""
    options = json.dumps({"step_s": 0.01})
    running = Service(tmp_path, "--cores", "6", module=platform.SIMULATED, SIMULATOR_OPTIONS=options)
    yield running
    running.close()


def test_a_run_that_shrinks_makes_room_and_one_that_was_cancelled_goes_on(
    service: Service,
    tmp_path: Path,
    toy: Path,  # noqa: F811
) -> None:
    small = {"generator": {"replicas": 1}, "verifier": {"replicas": 1}}
    with JournalKeeper(tmp_path, tmp_path / "journal") as keeper:
        large = create(service, runs.simulated(toy, 1000))
        until(lambda: get(service, large)["step"] >= 1, 180)
        spec = runs.simulated(toy, STEPS)
        waits = create(service, {**spec, "resources": {**spec["resources"], **small}})
        assert (waits["state"], waits["message"]) == ("queued", "needs 3 cores, 1 free of 6")
        changed = service.http.patch(f"/v1/runs/{large['id']}", json={"generators": 1, "verifiers": 1})
        assert changed.status_code == 200, changed.text
        until(lambda: state(service, waits) != "queued")
        seen = [(kind, data) for _, kind, data in events(service, waits["id"])]
        states = [data["state"] for kind, data in seen if kind == "state"]
        assert states == ["queued", "starting", "running", "draining", "succeeded"]
        assert not [data for _, data in seen if data.get("kind") == "resumed"], "it had not begun before"
        files = RunFolder(Path(waits["run_dir"]))
        summary = json.loads(files.summary.read_text())
        rows = read_json_lines(files.metrics)
        promise = runs.promise(spec)
        assert audit(keeper.read(waits["id"]), summary["ledger"], summary["issued_groups"], rows, promise) == []

        cancelled = act(service, large, "cancel")
        assert (cancelled["state"], service.workers()) == ("cancelled", [])
        steps = cancelled["step"]
        again = act(service, large, "resume", set=[])
        assert again["state"] == "starting"
        until(lambda: get(service, large)["step"] > steps, 180)
        act(service, large, "cancel")
        told = [data["message"] for _, _, data in events(service, large["id"]) if data.get("kind") == "resumed"]
        assert len(told) == 1
        assert told[0].startswith("the run goes on behind step")
