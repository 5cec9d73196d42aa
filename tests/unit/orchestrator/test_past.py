"""Runs of earlier services, as their folders tell of them."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.host import remembered
from dapo.host.files import write_json
from dapo.records.folder import RunFolder
from services.orchestrator.fleet import past
from services.orchestrator.fleet.past import PastRuns, delete_folder, past_run

PLACES = ("first", "runs/second", "runs/third", "runs/deeper/fourth", "runs/deeper/and/fifth")
END = {"state": "succeeded", "message": "", "steps": 3, "steps_total": 3, "ledger": {"trained": 12}}
STEPS = st.sampled_from(
    ("created", "ended", "resumed", "succeeded", "damaged", "half", "moved", "deleted", "kept", "purged", "copied")
)


@pytest.fixture(autouse=True)
def every_file_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_TICK_NS", -3_600_000_000_000)


def create(folder: Path, run_id: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    RunFolder(folder).spec.write_text("name: x\n")
    write_json(RunFolder(folder).identity, {"run_id": run_id, "created_at": f"2026-01-01T00:00:0{len(run_id) % 10}"})


def step(folder: Path, what: str, other: Path, serial: int) -> None:
    """What is written again has another length: files are told apart though all is within a tick of the clock."""
    files = RunFolder(folder)
    if what == "created":
        create(folder, f"run-{'x' * serial}")
    elif not files.identity.exists():
        return
    elif what in ("ended", "succeeded"):
        write_json(files.summary, END | ({"state": "failed", "message": "x" * serial} if what == "ended" else {}))
    elif what == "resumed":
        files.summary.unlink(missing_ok=True)
    elif what == "damaged":
        files.summary.write_text('{"state": "succ' if serial % 2 else json.dumps([serial]))
    elif what == "half":
        files.identity.write_text('{"run_')
    elif what == "moved" and not other.exists() and not other.is_relative_to(folder):
        other.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(other)
    elif what == "deleted":
        shutil.rmtree(folder)
    elif what == "kept":
        files.checkpoints.mkdir(exist_ok=True)
        delete_folder(folder, checkpoints=False)
    elif what == "purged":
        files.spec.unlink(missing_ok=True)
    elif what == "copied" and not other.exists() and not other.is_relative_to(folder):
        shutil.copytree(folder, other)


@given(
    st.lists(st.tuples(st.sampled_from(PLACES), STEPS, st.sampled_from(PLACES), st.booleans()), min_size=1, max_size=25)
)
def test_the_list_is_what_reading_all_folders_anew_gives(steps) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        known = PastRuns(root)
        for serial, (place, what, other, asked) in enumerate(steps):
            step(root / place, what, root / other, serial)
            if asked:
                assert known.list() == PastRuns(root).list()
        assert known.list() == PastRuns(root).list()
        for serial in range(-1, len(steps)):
            run_id = f"run-{'x' * serial}"
            folder, anew = known.find(run_id), PastRuns(root).find(run_id)
            assert (folder is None) == (anew is None)
            assert folder is None or past_run(folder).id == run_id


def test_a_list_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(past, "past_run", lambda folder: read.append(folder.name) or past_run(folder))
    runs = PastRuns(tmp_path)
    for place in ("runs/a", "runs/b"):
        create(tmp_path / place, place[-1])
    assert [run.id for run in runs.list()] == ["a", "b"]
    read.clear()
    create(tmp_path / "runs/c", "c")
    write_json(RunFolder(tmp_path / "runs/b").summary, END)
    assert [(run.id, run.step) for run in runs.list()] == [("a", 0), ("b", 3), ("c", 0)]
    assert {"b", "c"} <= set(read)
    assert "a" not in read
    read.clear()
    assert runs.find("a") == tmp_path / "runs/a"
    assert read == []
    assert runs.find("none") is None


def test_a_summary_of_another_shape_is_as_one_that_cannot_be_read(tmp_path: Path) -> None:
    create(tmp_path / "a", "a")
    write_json(RunFolder(tmp_path / "a").summary, {"state": "succeeded"})
    (run,) = PastRuns(tmp_path).list()
    assert "ended before it" in run.message
