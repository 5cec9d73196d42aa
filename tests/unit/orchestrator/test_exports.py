"""What the files of exports say of them, and what cannot be exported."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dapo.environment import SERVICE_KEYS
from dapo.records.checkpoints import Manifest, directory_name, file_sizes, mark, write_manifest
from dapo.records.folder import RunFolder
from dapo.records.identity import RunIdentity, write_identity
from services.orchestrator.catalogue import exporter
from services.orchestrator.catalogue.exporter import CannotExport, Exporter, ExportRequest
from services.orchestrator.fleet.errors import BadField, RunConflict
from services.orchestrator.records.exports import (
    ExportNotFound,
    ExportState,
    Place,
    Said,
    exports,
    find_file,
    under_way,
)
from tests.support.disks import fill, small_disk
from tests.support.waiting import eventually


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of 3 and 5 steps."""
    return make_run(tmp_path / "run")


def make_run(folder: Path) -> Path:
    root = RunFolder(folder).checkpoints
    for step in (3, 5):
        directory = root / directory_name(step, 1)
        (directory / "hf").mkdir(parents=True)
        (directory / "hf" / "model.safetensors").write_bytes(bytes(1 << 16))
        files = file_sizes(directory)
        write_manifest(directory, Manifest(step, 1, seed=0, world_size=1, zero_stage=0, dtype="bfloat16", files=files))
    mark(root, 1, [directory_name(step, 1) for step in (5, 3)])
    write_identity(folder, RunIdentity("r", "2026-01-02T03:04:05.000+00:00"))
    return folder


def place(run_dir: Path, checkpoint: str = "step-000005.e1") -> Place:
    found = Place(run_dir, checkpoint, "bfloat16")
    found.directory.parent.mkdir(exist_ok=True)
    return found


def ask(run_dir: Path, **request: object) -> None:
    asyncio.run(Exporter().ask(run_dir, ExportRequest(**request)))


def test_the_process_of_an_export_has_none_of_the_services_keys(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for name in SERVICE_KEYS:
        monkeypatch.setenv(name, "secret")
    shown = f"import os; print('error: has', *(set(os.environ) & {set(SERVICE_KEYS)})); raise SystemExit(1)"
    monkeypatch.setattr(exporter, "python_command", lambda module, *arguments: [sys.executable, "-c", shown])

    async def scenario() -> None:
        await Exporter().ask(run_dir, ExportRequest())
        await eventually(lambda: not under_way(exports(run_dir)))

    asyncio.run(scenario())
    (found,) = exports(run_dir)
    assert found.problem == "has"


def test_an_export_is_under_way_as_long_as_somebody_holds_its_lock(run_dir: Path) -> None:
    one = place(run_dir)
    lock = one.lock()
    assert lock is not None
    assert one.lock() is None
    for state in (ExportState.QUEUED, ExportState.RUNNING):
        one.say(Said(state))
        assert one.read().state is state
    assert under_way(exports(run_dir)) == ["step-000005.e1-bfloat16"]
    os.close(lock)
    found = one.read()
    assert (found.state, under_way(exports(run_dir))) == (ExportState.FAILED, [])
    assert "ask for it again" in found.problem


def test_the_folder_alone_says_that_an_export_is_whole(run_dir: Path) -> None:
    one = place(run_dir)
    one.scratch.mkdir()
    (one.scratch / "config.json").write_text("{}")
    one.say(Said(ExportState.RUNNING, warning="beware"))
    assert one.read().state is ExportState.FAILED
    one.complete()
    found = one.read()
    assert (found.state, found.files, found.size, found.step) == (ExportState.SUCCEEDED, {"config.json": 2}, 2, 5)
    assert (found.problem, found.warning) == ("", "beware")
    assert exports(run_dir) == [found]
    assert not one.scratch.exists()


def test_what_is_damaged_or_somebody_elses_is_no_export(run_dir: Path) -> None:
    one = place(run_dir)
    folder = one.directory.parent
    for name in ("notes.json", "step-1-int8.json", ".step-000005.e1-bfloat16.json", "step-000005.e1-bfloat16.lock"):
        (folder / name).write_text("{")
    assert exports(run_dir) == []
    (folder / "step-000005.e1-bfloat16.json").write_text("{")
    assert [one.state for one in exports(run_dir)] == [ExportState.FAILED]


def test_exports_are_listed_with_the_newest_step_first(run_dir: Path) -> None:
    for checkpoint in ("step-000003.e1", "step-000005.e1", "step-000005.e2"):
        place(run_dir, checkpoint).say(Said(ExportState.FAILED, "it failed"))
    found = [(one.step, one.name, one.problem) for one in exports(run_dir)]
    assert found == [
        (5, "step-000005.e1-bfloat16", "it failed"),
        (5, "step-000005.e2-bfloat16", "it failed"),
        (3, "step-000003.e1-bfloat16", "it failed"),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text() | st.sampled_from(["../step-000005.e1-bfloat16.json", "/etc/passwd", "..", "", ".", "./config.json"]))
def test_no_name_leads_out_of_an_export(run_dir: Path, name: str) -> None:
    one = place(run_dir)
    one.directory.mkdir(exist_ok=True)
    (one.directory / "config.json").write_text("{}")
    assert find_file(run_dir, one.name, "config.json") == one.directory / "config.json"
    if name != "config.json":
        with pytest.raises(ExportNotFound):
            find_file(run_dir, one.name, name)
    with pytest.raises(ExportNotFound):
        find_file(run_dir, name, "config.json")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"step": 4}, "step"),
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": "float32", "adapter": True}, "dtype"),
        ({"adapter": True}, "adapter"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_its_field(run_dir: Path, request_: dict, field: str) -> None:
    with pytest.raises(BadField) as caught:
        ask(run_dir, **request_)
    assert caught.value.field == field
    assert exports(run_dir) == []


def test_a_run_without_a_whole_checkpoint_has_nothing_to_export(run_dir: Path) -> None:
    for path in RunFolder(run_dir).checkpoints.rglob("model.safetensors"):
        path.unlink()
    with pytest.raises(RunConflict, match="no whole checkpoint"):
        ask(run_dir)
    for path in RunFolder(run_dir).checkpoints.glob("latest*"):
        path.unlink()
    with pytest.raises(RunConflict, match="no checkpoint yet"):
        ask(run_dir)


def test_an_export_stays_when_its_checkpoint_goes(run_dir: Path) -> None:
    one = Place(run_dir, "step-000001.e1", "float32")
    one.directory.mkdir(parents=True)
    found = asyncio.run(Exporter().ask(run_dir, ExportRequest(step=1, dtype="float32")))
    assert (found.state, found.name) == (ExportState.SUCCEEDED, one.name)


def test_a_service_without_torch_says_so(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CannotExport, match="needs torch"):
        ask(run_dir)
    assert exports(run_dir) == []


def test_a_disk_without_room_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with small_disk(tmp_path / "disk", 1024) as disk:
        run_dir = make_run(disk / "run")
        fill(disk, leave_kib=100)
        with pytest.raises(RunConflict, match=r"needs 0\.1 MiB .* are free"):
            ask(run_dir, dtype="float32")
        assert exports(run_dir) == []


def test_what_was_asked_for_is_plain_json(run_dir: Path) -> None:
    one = place(run_dir)
    one.say(Said(ExportState.FAILED, "it failed"))
    found = json.loads(one.directory.with_name(f"{one.name}.json").read_text())
    assert found == {"state": "failed", "problem": "it failed", "warning": ""}
