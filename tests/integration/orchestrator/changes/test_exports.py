"""Exports over REST and gRPC, written by the learner's own process beside a live service."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest

pytest.importorskip("torch")

import torch
from redis import Redis
from safetensors.torch import load_file

from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.checkpoints import Manifest, directory_name, file_sizes, mark, write_manifest
from dapo.records.folder import RunFolder
from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.models import tiny_qwen2
from tests.support.orchestrator.run_service import METADATA, Service, create, kind

FAKE = "tests.support.orchestrator.fake_service"


def until(met: Callable[[], object], within_s: float = 240.0) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


@pytest.fixture
def spec(spec: dict, tmp_path: Path) -> dict:
    """Its base model is there, in bfloat16."""
    tiny_qwen2(0).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    return {**spec, "model": {"path": str(tmp_path / "base")}}


@pytest.fixture
def alone(tmp_path: Path, valkey):
    """A service whose runs have no processes: all others of it are exports."""
    folder = tmp_path / "state"
    folder.mkdir()
    running = Service(folder, module=FAKE, REDIS_URL=valkey.url)
    yield running
    running.close()


def trained(service: Service, spec: dict) -> dict:
    """A run that has ended, with a float32 checkpoint of step 3 in several files."""
    run = create(service, spec)
    run = service.http.post(f"/v1/runs/{run['id']}/stop").json()
    root = RunFolder(Path(run["run_dir"])).checkpoints
    directory = root / directory_name(3, 1)
    tiny_qwen2(1).save_pretrained(directory / "hf", max_shard_size="100KB")
    files = file_sizes(directory)
    write_manifest(directory, Manifest(3, 1, seed=0, world_size=1, zero_stage=0, dtype="float32", files=files))
    mark(root, 1, [directory.name])
    return run


def ask(service: Service, run: dict, **body: object) -> dict:
    answer = service.http.post(f"/v1/runs/{run['id']}/export", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def listed(service: Service, run: dict) -> dict[str, dict]:
    return {one["name"]: one for one in service.http.get(f"/v1/runs/{run['id']}/exports").json()["exports"]}


def ended(service: Service, run: dict, name: str) -> dict:
    until(lambda: listed(service, run)[name]["state"] in ("succeeded", "failed"))
    return listed(service, run)[name]


def exporters(service: Service) -> list[psutil.Process]:
    found = (psutil.Process(pid) for pid in service.family())
    return [process for process in found if "services.learner.export" in process.cmdline()]


def frozen(service: Service) -> psutil.Process:
    """The process that writes an export, stopped before it has written any."""
    until(lambda: exporters(service))
    (process,) = exporters(service)
    process.suspend()
    return process


def weights(directory: str) -> dict[str, torch.Tensor]:
    return {name: one for path in Path(directory).glob("*.safetensors") for name, one in load_file(path).items()}


def test_a_checkpoint_is_exported_listed_and_downloaded(alone: Service, spec: dict) -> None:
    run = trained(alone, spec)
    asked = ask(alone, run)
    assert (asked["name"], asked["step"], asked["dtype"]) == ("step-000003.e1-as-base", 3, "as-base")
    assert asked["state"] in ("queued", "running")
    done = ended(alone, run, asked["name"])
    assert (done["state"], done["problem"], done["warning"]) == ("succeeded", "", ""), done
    assert done["directory"] == f"{run['run_dir']}/exports/{done['name']}"
    assert {one.dtype for one in weights(done["directory"]).values()} == {torch.bfloat16}
    assert done["size"] == sum(done["files"].values()) == sum(file_sizes(Path(done["directory"])).values())

    before = Path(done["directory"]).stat().st_mtime_ns
    assert ask(alone, run) == ask(alone, run, step=3, dtype="as-base") == done, "once made, it is there"
    assert Path(done["directory"]).stat().st_mtime_ns == before

    path = f"/v1/runs/{run['id']}/exports/{done['name']}/files"
    for name, size in done["files"].items():
        content = alone.http.get(f"{path}/{name}").content
        assert (len(content), content) == (size, (Path(done["directory"]) / name).read_bytes())
    before_text = (Path(done["directory"]) / "config.json").read_bytes()
    part = alone.http.get(f"{path}/config.json", headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, before_text[1:4])
    for wrong in ("none", "..%2F..%2Fspec.yaml", "%2Fetc%2Fpasswd"):
        assert kind(alone.http.get(f"{path}/{wrong}")) == (404, "not_found")

    with grpc.insecure_channel(f"127.0.0.1:{alone.ready['grpc_port']}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = run_pb2_grpc.RunServiceStub(channel)
        (one,) = stub.ListExports(run_pb2.ListExportsRequest(id=run["id"]), metadata=METADATA).exports
        again = stub.ExportRun(run_pb2.ExportRunRequest(id=run["id"], step=3), metadata=METADATA)
        for offset, text in ((0, before_text), (5, before_text[5:]), (2**63, b"")):
            wanted = run_pb2.ReadExportFileRequest(id=run["id"], name=done["name"], file="config.json", offset=offset)
            assert b"".join(piece.data for piece in stub.ReadExportFile(wanted, metadata=METADATA)) == text
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ReadExportFile(run_pb2.ReadExportFileRequest(id=run["id"], name=".."), metadata=METADATA))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            stub.ExportRun(run_pb2.ExportRunRequest(id=run["id"], dtype="int8"), metadata=METADATA)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert one == again
    assert {name: getattr(one, name) for name in done if name != "files"} == {
        name: value for name, value in done.items() if name != "files"
    }
    assert dict(one.files) == done["files"]


def test_an_adapter_is_exported_alone(alone: Service, spec: dict) -> None:
    run = trained(alone, spec)
    checkpoint = RunFolder(Path(run["run_dir"])).checkpoints / directory_name(3, 1)
    (checkpoint / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "merging.json"):
        (checkpoint / "adapter" / name).write_text("{}")
    asked = ask(alone, run, adapter=True)
    assert (asked["name"], asked["adapter"], asked["dtype"]) == ("step-000003.e1-adapter", True, None)
    done = ended(alone, run, asked["name"])
    assert (done["state"], sorted(done["files"])) == ("succeeded", ["adapter_config.json", "adapter_model.safetensors"])


def test_an_export_that_fails_says_why_and_is_begun_anew_when_asked_for_again(alone: Service, spec: dict) -> None:
    run = trained(alone, spec)
    base = Path(spec["model"]["path"]) / "config.json"
    config = base.read_text()
    base.write_text("{}")
    failed = ended(alone, run, ask(alone, run)["name"])
    assert (failed["state"], failed["files"]) == ("failed", {})
    assert "its base model is not here" in failed["problem"]
    left = {path.name for path in RunFolder(Path(run["run_dir"])).exports.iterdir() if path.is_dir()}
    assert left == set()
    base.write_text(config)
    assert ended(alone, run, ask(alone, run)["name"])["state"] == "succeeded"
    audit = [json.loads(line) for line in (alone.folder / "audit.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in audit if line["operation"] == "export_run"] == ["ok", "ok"]


def test_exports_are_written_one_after_the_other_and_a_run_is_not_deleted_meanwhile(
    alone: Service, spec: dict, valkey: EmbeddedValkey
) -> None:
    run = trained(alone, spec)
    first = ask(alone, run, dtype="bfloat16")["name"]
    process = frozen(alone)
    second = ask(alone, run, dtype="float32")["name"]
    assert {name: one["state"] for name, one in listed(alone, run).items()} == {first: "running", second: "queued"}
    assert ask(alone, run, dtype="bfloat16")["state"] == "running"
    assert exporters(alone) == [process]
    assert process.nice() == 10
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "1000"
    with Redis.from_url(valkey.url) as client:
        held = set(client.scan_iter(f"*{run['id']}*"))
        refused = alone.http.delete(f"/v1/runs/{run['id']}")
        assert (kind(refused), first in refused.json()["detail"]) == ((409, "conflict"), True)
        assert set(client.scan_iter(f"*{run['id']}*")) == held != set(), "what is refused changes nothing"
    process.resume()
    for name, dtype in ((first, torch.bfloat16), (second, torch.float32)):
        assert {one.dtype for one in weights(ended(alone, run, name)["directory"]).values()} == {dtype}

    other = trained(alone, spec)
    ended(alone, other, ask(alone, other)["name"])
    assert alone.http.delete(f"/v1/runs/{run['id']}").status_code == 204
    assert {path.name for path in Path(run["run_dir"]).iterdir()} == {"checkpoints", "exports", "spec.yaml"}
    assert alone.http.delete(f"/v1/runs/{other['id']}", params={"checkpoints": True}).status_code == 204
    assert not Path(other["run_dir"]).exists()


@pytest.mark.parametrize("ending", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_service_that_ends_takes_its_export_along(spec: dict, tmp_path: Path, valkey, ending: signal.Signals) -> None:
    service = Service(tmp_path, module=FAKE, REDIS_URL=valkey.url)
    run = trained(service, spec)
    name = ask(service, run)["name"]
    process = frozen(service)
    service.process.send_signal(ending)
    if ending == signal.SIGKILL:
        service.process.wait(30)
        process.resume()  # What is frozen is ended by SIGKILL alone, and nobody is there to send it.
    until(lambda: not process.is_running() or process.status() == "zombie")
    service.close()
    service = Service(tmp_path, module=FAKE, REDIS_URL=valkey.url)
    try:
        broken = listed(service, run)[name]
        assert (broken["state"], "ask for it again" in broken["problem"]) == ("failed", True)
        assert not Path(broken["directory"]).exists()
        assert ended(service, run, ask(service, run)["name"])["state"] == "succeeded"
    finally:
        service.close()
