"""The queue of a run service, whose workers are no processes: who waits and why, who is next, and how one leaves."""

import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.folder import RunFolder
from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.orchestrator.run_service import METADATA, Service, create, events, kind

FAKE = "tests.support.orchestrator.fake_service"


def until(met: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def serve(folder: Path, *options: str, name: str = "service", **environment: str) -> Service:
    return Service(folder, *options, name=name, module=FAKE, **environment)


def get(service: Service, run: dict) -> dict:
    return service.http.get(f"/v1/runs/{run['id']}").json()


def state(service: Service, run: dict) -> str:
    return get(service, run)["state"]


def act(service: Service, run: dict, what: str, **body: object) -> dict:
    response = service.http.post(f"/v1/runs/{run['id']}/{what}", **({"json": body} if body else {}))
    assert response.status_code == 200, response.text
    return response.json()


def queue(service: Service) -> list[str]:
    return [one["run_id"] for one in service.http.get("/v1/machine").json()["queue"]]


@pytest.fixture
def one_at_a_time(tmp_path: Path) -> Iterator[Service]:
    service = serve(tmp_path, "--max-runs", "1")
    yield service
    service.close()


@pytest.fixture
def plain(spec: dict, tmp_path: Path) -> dict:
    """A run whose learner never comes, so that it goes on until it is ended."""
    return {**spec, "checkpoint": {"on_stop_s": 0.5}}


def test_runs_wait_for_their_turn_and_say_why(plain: dict, one_at_a_time: Service) -> None:
    service = one_at_a_time
    first, second, third = (create(service, plain) for _ in range(3))
    assert first["state"] == "starting"
    told = [(one["state"], one["queue_position"], one["message"]) for one in (second, third)]
    assert told == [("queued", place, "1 of 1 run under way (--max-runs)") for place in (1, 2)]
    assert {one["id"]: one["queue_position"] for one in service.http.get("/v1/runs").json()["runs"]} == {
        first["id"]: None,
        second["id"]: 1,
        third["id"]: 2,
    }
    listed = service.http.get("/v1/runs", params={"state": "queued"}).json()["runs"]
    assert [one["id"] for one in listed] == [second["id"], third["id"]]
    machine = service.http.get("/v1/machine").json()
    assert machine["runs"] == {"most": 1, "under_way": 1}
    assert machine["cores"] == {"total": len(os.sched_getaffinity(0)), "free": machine["cores"]["free"]}
    assert 0 < machine["memory"]["free"] < machine["memory"]["total"]
    assert machine["queue"] == [
        {"run_id": run["id"], "position": place, "priority": 0, "reason": "1 of 1 run under way (--max-runs)"}
        for place, run in ((1, second), (2, third))
    ]
    with grpc.insecure_channel(f"127.0.0.1:{service.ready['grpc_port']}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = run_pb2_grpc.RunServiceStub(channel)
        same = stub.GetMachine(run_pb2.GetMachineRequest(), metadata=METADATA)
        assert [one.run_id for one in same.queue] == [second["id"], third["id"]]
        assert (same.runs.most, same.memory.total) == (1, machine["memory"]["total"])

        # Room appears: the next one starts, and the one behind it moves up.
        cancelled = stub.CancelRun(run_pb2.CancelRunRequest(id=first["id"]), metadata=METADATA)
    assert (cancelled.state, cancelled.message) == (run_pb2.RUN_STATE_CANCELLED, "cancelled on request")
    until(lambda: state(service, second) == "starting")
    assert (get(service, third)["queue_position"], queue(service)) == (1, [third["id"]])
    act(service, second, "cancel")
    until(lambda: state(service, third) == "starting")
    assert get(service, third)["message"] == ""
    act(service, third, "cancel")
    for run, states in ((first, []), (third, ["queued"])):
        told = [data["state"] for _, kind, data in events(service, run["id"]) if kind == "state"]
        # It may be cancelled before it has said that it starts.
        assert told in ([*states, "starting", "cancelled"], [*states, "cancelled"])
    audit = [json.loads(line) for line in (service.folder / "audit.jsonl").read_text().splitlines()]
    assert [(one["operation"], one["run"]) for one in audit[-2:]] == [
        ("cancel_run", second["id"]),
        ("cancel_run", third["id"]),
    ]


def test_a_higher_priority_goes_first_also_one_that_is_given_later(plain: dict, one_at_a_time: Service) -> None:
    service = one_at_a_time

    def created(priority: int) -> dict:
        response = service.http.post("/v1/runs", json={"spec": plain, "priority": priority})
        assert response.status_code == 201, response.text
        return response.json()

    first, low, normal, high = (created(priority) for priority in (0, -1, 0, 5))
    assert (high["queue_position"], queue(service)) == (1, [high["id"], normal["id"], low["id"]])
    assert service.http.patch(f"/v1/runs/{low['id']}", json={"priority": 9}).status_code == 200
    until(lambda: queue(service) == [low["id"], high["id"], normal["id"]])
    act(service, first, "cancel")
    until(lambda: state(service, low) == "starting")
    assert queue(service) == [high["id"], normal["id"]]


def test_a_run_that_leaves_the_queue_has_an_end_and_may_come_back(plain: dict, one_at_a_time: Service) -> None:
    service = one_at_a_time
    going, stopped, cancelled = (create(service, plain) for _ in range(3))
    refused = service.http.delete(f"/v1/runs/{stopped['id']}")
    assert kind(refused) == (409, "conflict")
    refused = service.http.post(f"/v1/runs/{stopped['id']}/resume", json={})
    assert kind(refused) == (409, "conflict")
    for run, what, end in ((stopped, "stop", "stopped"), (cancelled, "cancel", "cancelled")):
        ended = act(service, run, what)
        assert (ended["state"], ended["message"]) == (end, f"{end} on request")
        assert ended["queue_position"] is None
        summary = json.loads(RunFolder(Path(run["run_dir"])).summary.read_text())
        assert (summary["state"], summary["steps"]) == (end, 0)
        assert [data["state"] for _, _, data in events(service, run["id"])] == ["queued", end]
        assert act(service, run, what)["state"] == end, "what has ended stays as it is"
    assert queue(service) == []
    # It waits again, with what it is to go on with, which is kept though the service is killed.
    again = act(service, cancelled, "resume", set=["training.steps=20", "checkpoint.on_stop_s=7"])
    assert (again["state"], again["queue_position"], again["steps_total"]) == ("queued", 1, 20)
    service.process.kill()
    service.process.wait()
    one_at_a_time.__dict__.update(serve(service.folder, "--max-runs", "1").__dict__)
    until(lambda: state(service, going) == "starting")
    assert state(service, cancelled) == "queued"
    assert get(service, cancelled)["steps_total"] == 20
    act(service, going, "cancel")
    until(lambda: state(service, cancelled) == "starting")
    until(lambda: "on_stop_s: 7" in service.http.get(f"/v1/runs/{cancelled['id']}/spec").json()["yaml"])
    assert act(service, going, "resume", set=[])["state"] == "queued", "one that has been under way needs room, too"
    told = [data["message"] for _, _, data in ended_events(service, cancelled) if data.get("kind") == "resumed"]
    assert "changed: checkpoint.on_stop_s: 0.5 → 7.0" in told


def ended_events(service: Service, run: dict) -> list[tuple[str, str, dict]]:
    act(service, run, "cancel")
    return events(service, run["id"])


def test_the_queue_outlives_a_service_that_is_killed(plain: dict, tmp_path: Path) -> None:
    service = serve(tmp_path, "--max-runs", "2")
    try:
        first, second, third, fourth, fifth = (create(service, plain) for _ in range(5))
        assert service.http.patch(f"/v1/runs/{fifth['id']}", json={"priority": 1}).status_code == 200
        until(lambda: [state(service, run) for run in (first, second)] == ["starting"] * 2)
        waiting = [fifth["id"], third["id"], fourth["id"]]
        until(lambda: queue(service) == waiting)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        service.http.close()
        service = serve(tmp_path, "--max-runs", "2")
        assert queue(service) == waiting
        assert get(service, third)["message"] == "2 of 2 runs under way (--max-runs)"
        until(lambda: [state(service, run) for run in (first, second)] == ["starting"] * 2)
        service.close()
        # With less room what was under way comes before what was not, whatever its priority.
        service = serve(tmp_path, "--max-runs", "1")
        until(lambda: state(service, first) == "starting")
        assert queue(service) == [second["id"], *waiting]
        assert (state(service, second), get(service, fifth)["queue_position"]) == ("queued", 2)
    finally:
        service.close()


def test_what_a_machine_is_said_to_have_is_what_runs_get(plain: dict, tmp_path: Path) -> None:
    """A run has three workers here: a generator, a verifier and a learner."""
    gpus = ",".join(f"GPU-{secrets.token_hex(8)}" for _ in range(2))
    service = serve(tmp_path, "--cores", "5", "--memory-gib", "4", CUDA_VISIBLE_DEVICES=gpus)
    try:
        alone = create(service, {**plain, "resources": {**plain["resources"], "verifier": {"replicas": 4}}})
        assert alone["state"] == "starting"
        waits = create(service, plain)
        assert (waits["state"], waits["message"]) == (
            "queued",
            "needs 3 cores, 0 free of 5; needs 2.4 GiB of memory, 1.2 GiB free of 4.0 GiB",
        )
        said = [data["message"] for _, _, data in ended_events(service, alone) if data.get("kind") == "crowded"]
        assert said == [
            "the run starts all the same, as it has the machine to itself: needs 6 cores, 5 free of 5",
        ]
        until(lambda: state(service, waits) == "starting")
        machine = service.http.get("/v1/machine").json()
        assert (machine["cores"], machine["gpus"]) == ({"total": 5, "free": 2}, {"total": 2, "free": 2})
        act(service, waits, "cancel")

        resources = {**plain["resources"], "generator": {"device": "cuda"}}
        one = create(service, {**plain, "resources": {**resources, "verifier": {"replicas": 1}}})
        both = {**plain, "resources": {**resources, "generator": {"device": "cuda", "tensor_parallel": 2}}}
        split = create(service, both)
        assert split["message"].startswith("needs 2 GPUs, 1 free of 2"), split
        assert service.http.get("/v1/machine").json()["gpus"] == {"total": 2, "free": 1}
        act(service, one, "cancel")
        until(lambda: state(service, split) == "starting")
        both["resources"]["generator"]["tensor_parallel"] = 3
        refused = service.http.post("/v1/runs", json={"spec": both})
        assert kind(refused) == (422, "invalid_spec")
        (problem,) = refused.json()["problems"]
        assert (problem["field"], problem["given"]) == ("resources.generator.tensor_parallel", "3")
        assert "this machine has 2 GPUs" in problem["message"]
        assert not service.http.post("/v1/specs/validate", json={"spec": both}).json()["valid"]
    finally:
        service.close()


def test_a_service_leaves_alone_what_its_machine_could_never_run(
    plain: dict, tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    folder, gpu = tmp_path / "state", f"GPU-{secrets.token_hex(8)}"
    folder.mkdir()
    cuda = {**plain, "resources": {**plain["resources"], "generator": {"device": "cuda"}}}
    first = serve(folder, name="first", REDIS_URL=valkey.url, CUDA_VISIBLE_DEVICES=gpu)
    second = serve(folder, name="second", REDIS_URL=valkey.url, CUDA_VISIBLE_DEVICES="")
    try:
        refused = second.http.post("/v1/runs", json={"spec": cuda}).json()
        assert [one["field"] for one in refused["problems"]] == ["resources.generator.device"]
        going, waits = create(first, cuda), create(first, cuda)
        assert waits["message"] == "needs 1 GPU, 0 free of 1"
        until(lambda: "this machine has no GPUs" in get(second, waits)["message"])
        # Others pass it there.
        assert create(second, plain)["state"] == "starting"
        act(first, going, "cancel")
        until(lambda: state(first, waits) == "starting")
        assert first.http.get("/v1/machine").json()["gpus"] == {"total": 1, "free": 0}
    finally:
        first.close()
        second.close()


def test_a_run_that_was_counted_with_gpus_goes_on_without_only_when_it_is_resumed_there(
    plain: dict, tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    """It would make do without (`device: auto`), where nobody has asked for that."""
    folder, gpu = tmp_path / "state", f"GPU-{secrets.token_hex(8)}"
    folder.mkdir()
    auto = {**plain, "resources": {**plain["resources"], "generator": {"device": "auto"}}}
    first = serve(folder, name="first", REDIS_URL=valkey.url, CUDA_VISIBLE_DEVICES=gpu)
    second = serve(folder, name="second", REDIS_URL=valkey.url, CUDA_VISIBLE_DEVICES="")
    try:
        going, waits = create(first, auto), create(first, auto)
        assert (going["state"], waits["message"]) == ("starting", "needs 1 GPU, 0 free of 1")
        until(lambda: "the run was counted with GPUs, and this machine has none" in get(second, waits)["message"])
        assert create(second, auto)["state"] == "starting"
        # Neither does one go on there that was under way.
        until(lambda: (Path(going["run_dir"]) / "provenance.json").exists())
        first.process.kill()
        first.process.wait()
        until(lambda: "the run was counted with GPUs" in get(second, going)["message"])
        assert act(second, waits, "cancel")["state"] == "cancelled"
        assert act(second, waits, "resume", set=[])["state"] == "starting"
    finally:
        first.close()
        second.close()


def test_a_run_that_cannot_be_queued_is_none(plain: dict, tmp_path: Path, valkey: EmbeddedValkey) -> None:
    service = serve(tmp_path, "--max-runs", "1", REDIS_URL=valkey.url)
    server = psutil.Process(valkey.pid)
    try:
        first = create(service, plain)
        until(lambda: (Path(first["run_dir"]) / "provenance.json").exists())
        server.suspend()
        assert kind(service.http.post("/v1/runs", json={"spec": plain})) == (503, "no_answer")
        server.resume()
        assert [one["id"] for one in service.http.get("/v1/runs").json()["runs"]] == [first["id"]]
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [first["id"]]
    finally:
        server.resume()
        service.close()


def test_two_services_share_the_queue(plain: dict, tmp_path: Path, valkey: EmbeddedValkey) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    first, second = (serve(folder, "--max-runs", "1", name=name, REDIS_URL=valkey.url) for name in ("first", "second"))
    try:
        one, two = create(first, plain), create(second, plain)
        assert (one["state"], two["state"]) == ("starting", "starting")
        waits, later = create(first, plain), create(second, plain)
        for service in (first, second):
            until(lambda service=service: queue(service) == [waits["id"], later["id"]])
            for run, place in ((waits, 1), (later, 2)):
                told = get(service, run)
                assert (told["state"], told["queue_position"]) == ("queued", place)
                assert told["message"] == "1 of 1 run under way (--max-runs)"
        # Whichever has room takes the next, and each answers for all of them.
        assert act(first, two, "cancel")["state"] == "cancelled"
        for service in (first, second):
            until(lambda service=service: state(service, waits) == "starting")
        assert first.http.get("/v1/machine").json()["runs"]["under_way"] == 1
        assert second.http.get("/v1/machine").json()["runs"]["under_way"] == 1
        assert act(first, later, "stop")["message"] == "stopped on request"
        assert state(second, later) == "stopped"
        # The leader dies: its run waits for room at the other, which says so.
        first.process.kill()
        first.process.wait()
        until(lambda: queue(second) == [one["id"]])
        assert state(second, one) == "queued"
        act(second, waits, "cancel")
        until(lambda: state(second, one) == "starting")
    finally:
        first.close()
        second.close()


def test_a_run_that_waits_says_how_its_workers_are_changed(one_at_a_time: Service, plain: dict) -> None:
    create(one_at_a_time, plain)
    waits = create(one_at_a_time, plain)
    refused = one_at_a_time.http.patch(f"/v1/runs/{waits['id']}", json={"generators": 2, "verifiers": 3})
    assert kind(refused) == (409, "conflict")
    fields = ["resources.generator.replicas=2", "resources.verifier.replicas=3"]
    advice = f"cancel it, and resume it with --set {fields[0]} --set {fields[1]}"
    assert refused.json()["detail"] == f"run {waits['id']} waits for room: {advice}"
    act(one_at_a_time, waits, "cancel")
    assert act(one_at_a_time, waits, "resume", set=fields)["state"] == "queued"
