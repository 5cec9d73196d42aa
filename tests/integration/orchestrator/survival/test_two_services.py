"""Two run services on one Redis and one directory: each run is led by one, and by the other when that is lost."""

import hashlib
import itertools
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from benchmarks.survival import platform, runs
from benchmarks.survival.audit import audit
from benchmarks.survival.journal import JournalKeeper
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from dapo.spec.load import load_spec
from tests.support.models import save_model
from tests.support.orchestrator.run_service import Service, create, events, processes

pytestmark = pytest.mark.timeout(400)
STEPS = 24
OPTIONS = json.dumps({"step_s": 0.01})


def until(met: Callable[[], object], within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


@dataclass
class Pair:
    """A Valkey, two services on it, and what is known of a run."""

    folder: Path
    valkey: EmbeddedValkey
    keeper: JournalKeeper
    first: Service
    second: Service
    toy: Path

    def create(self, steps: int = STEPS) -> dict:
        return create(self.first, runs.simulated(self.toy, steps))

    def files(self, run: dict) -> RunFolder:
        return RunFolder(Path(run["run_dir"]))

    def steps(self, run: dict) -> int:
        path = self.files(run).metrics
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def summary(self, run: dict) -> dict:
        return json.loads(self.files(run).summary.read_text())

    def ask(self, service: Service, run: dict) -> dict:
        return service.http.get(f"/v1/runs/{run['id']}").json()

    def violations(self, run: dict, steps: int = STEPS) -> list[str]:
        summary, journal = self.summary(run), self.keeper.read(run["id"])
        rows = read_json_lines(self.files(run).metrics)
        promise = runs.promise(runs.simulated(self.toy, steps))
        return audit(journal, summary["ledger"], summary["issued_groups"], rows, promise)

    def fingerprint(self, run: dict) -> dict[str, str]:
        """Of all that there is of the run, but for the workers' own logs and what expires: files, and keys in Redis."""
        folder = Path(run["run_dir"])
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and "logs" not in path.parts)
        found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        client = redis.Redis.from_url(self.valkey.url)
        for key in client.scan_iter(match=f"dapo:{{{run['id']}}}:*", count=1000):
            if client.ttl(key) == -1:
                found[key.decode()] = hashlib.sha256(client.dump(key) or b"").hexdigest()
        client.close()
        return found


def service(folder: Path, name: str, valkey: EmbeddedValkey) -> Service:
    environment = {"REDIS_URL": valkey.url, "SIMULATOR_OPTIONS": OPTIONS}
    return Service(folder, name=name, module=platform.SIMULATED, **environment)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    save_model(folder / "model", seed=1)
    words = ("".join(letters) for letters in itertools.permutations("abcdef", 5))
    rows = (json.dumps({"prompt": f"{word}>", "answer": word[::-1]}) for word in words)
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def pair(tmp_path: Path, toy: Path) -> Iterator[Pair]:
    with (
        EmbeddedValkey(tmp_path / "valkey", 512) as valkey,
        JournalKeeper(tmp_path, tmp_path / "journal") as keeper,
    ):
        folder = tmp_path / "state"
        folder.mkdir()
        first, second = service(folder, "first", valkey), service(folder, "second", valkey)
        try:
            yield Pair(folder, valkey, keeper, first, second, toy)
        finally:
            for one in (first, second):
                one.process.send_signal(signal.SIGCONT)
                one.close()


def test_the_other_service_goes_on_with_the_runs_of_one_that_is_killed(pair: Pair) -> None:
    run = pair.create()
    until(lambda: pair.steps(run) >= 4)
    seen = pair.ask(pair.second, run)
    assert (seen["state"], seen["steps_total"]) == ("running", STEPS)
    assert [one["id"] for one in pair.second.http.get("/v1/runs").json()["runs"]] == [run["id"]]
    pair.first.process.kill()
    until(pair.files(run).summary.exists)
    assert pair.summary(run)["state"] == "succeeded"
    assert pair.violations(run) == []
    kinds = [(kind, data.get("kind")) for _, kind, data in events(pair.second, run["id"])]
    assert kinds.count(("alert", "resumed")) == 1


def test_a_leader_that_was_frozen_writes_nothing_when_it_wakes(pair: Pair) -> None:
    run = pair.create()
    until(lambda: pair.steps(run) >= 4)
    workers = processes(pair.first, "python")
    pair.first.process.send_signal(signal.SIGSTOP)
    # Its workers are alive, and must not go on beside those of the other.
    until(pair.files(run).summary.exists, 150)
    assert pair.summary(run)["state"] == "succeeded"
    assert pair.violations(run) == []
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
    until(lambda: pair.ask(pair.second, run)["state"] == "succeeded")
    before = pair.fingerprint(run)

    pair.first.process.send_signal(signal.SIGCONT)
    until(lambda: "is led by another run service" in pair.first.log.read_text())
    time.sleep(4.0)
    assert pair.fingerprint(run) == before
    assert pair.ask(pair.first, run)["state"] == "succeeded"
    # It serves other runs.
    other = pair.create(steps=2)
    assert events(pair.first, other["id"])[-1][2]["state"] == "succeeded"
    assert pair.violations(other, steps=2) == []


def test_the_other_service_answers_for_a_run_and_has_its_leader_stop_it(pair: Pair) -> None:
    run = pair.create(steps=1000)
    until(lambda: pair.steps(run) >= 2)
    group = pair.second.http.get(f"/v1/runs/{run['id']}/groups/g0000000000")
    assert (group.status_code, group.json()["state"] in ("trained", "filtered")) == (200, True)
    pipeline = pair.second.http.get(f"/v1/runs/{run['id']}/pipeline").json()
    assert (pipeline["live"], pipeline["verifiers"]["alive"]) == (True, pipeline["verifiers"]["wanted"])
    groups = pair.second.http.get(f"/v1/runs/{run['id']}/groups", params={"limit": 5}).json()["groups"]
    assert len(groups) == 5
    watching = ThreadPoolExecutor(1).submit(events, pair.second, run["id"])
    refused = pair.second.http.post(f"/v1/runs/{run['id']}/resume", json={})
    assert refused.status_code == 409
    assert f"process {pair.first.process.pid}" in refused.text
    change = {"verifiers": 3, "labels": {"scaled": "yes"}}
    scaled = pair.second.http.patch(f"/v1/runs/{run['id']}", json=change)
    assert (scaled.status_code, scaled.json()["labels"]) == (200, {"scaled": "yes"}), scaled.text
    until(lambda: len(pair.second.http.get(f"/v1/runs/{run['id']}/pipeline").json()["verifiers"]["alive"]) == 3)
    both = pair.first.http.patch(f"/v1/runs/{run['id']}", json={"verifiers": 2, "labels": {"seen": "there"}})
    assert (both.status_code, both.json()["labels"]) == (200, {"seen": "there", "scaled": "yes"}), both.text
    assert pair.ask(pair.second, run)["labels"] == both.json()["labels"]
    assert load_spec(pair.files(run).spec).resources.verifier.replicas == 2
    requeued = pair.second.http.post(f"/v1/runs/{run['id']}/groups/g0000000000/requeue")
    assert (requeued.status_code, "g0000000000" in requeued.json()["detail"]) == (409, True)
    stopped = pair.second.http.post(f"/v1/runs/{run['id']}/stop").json()
    assert (stopped["state"], stopped["message"]) == ("stopped", "stopped on request")
    pipeline = pair.second.http.get(f"/v1/runs/{run['id']}/pipeline").json()
    assert (pipeline["live"], pipeline["groups"]) == (False, stopped["ledger"])
    assert pair.second.http.get(f"/v1/runs/{run['id']}/groups", params={"state": "trained"}).json()["groups"]
    seen = watching.result(30)
    archived = read_json_lines(pair.files(run).events)
    assert [event_id for event_id, _, _ in seen] == [row["id"] for row in archived]
    assert seen[-1][2]["state"] == "stopped"
    pair.first.process.kill()
    time.sleep(3.0)
    assert pair.ask(pair.second, run)["state"] == "stopped", "nobody goes on with it"


def test_of_services_that_start_at_once_one_leads_the_run(pair: Pair, tmp_path: Path) -> None:
    run = pair.create()
    until(lambda: pair.steps(run) >= 2)
    for one in (pair.first, pair.second):
        one.process.kill()
        one.process.wait()
    pair.first, pair.second = (service(pair.folder, name, pair.valkey) for name in ("third", "fourth"))
    try:
        until(pair.files(run).summary.exists)
        assert pair.summary(run)["state"] == "succeeded"
        assert pair.violations(run) == []
        kinds = [(kind, data.get("kind")) for _, kind, data in events(pair.first, run["id"])]
        assert kinds.count(("alert", "resumed")) == 1
    finally:
        pair.first.close()
        pair.second.close()
