"""What a real S3 server has of a run comes back, and nothing that is not whole."""

import shutil
from pathlib import Path

import pytest

from dapo.records.checkpoints import CheckpointError, find_newest, newest_epoch
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, read_identity
from dapo.records.mirror.copying import CheckpointCopy, delete_older
from dapo.records.mirror.fetching import FetchTimeout, NothingToFetch, fetch, find_mirrored
from dapo.records.mirror.store import ObjectStore, ObjectStoreError
from tests.support.store.folder import Folder, bring_back, files
from tests.support.store.server import BUCKET, Gate

BIG = 20 << 20
"""Bytes: three parts, two ranges."""


def test_what_was_copied_comes_back_as_it_was(store: ObjectStore, folder: Folder, tmp_path: Path) -> None:
    name = folder.save(4, epoch=3, size=BIG)
    CheckpointCopy(folder.path, name).run(store)
    told: list[int] = []
    found = find_mirrored(store)
    fetch(store, found, tmp_path / "back", within_s=60, progress=lambda done, size: told.append(done))
    assert (found.name, found.step, found.damage) == (name, 4, [])
    assert told == sorted(told)
    assert told[-1] == found.size > BIG
    back = RunFolder(tmp_path / "back")
    assert files(back.checkpoints / name) == files(folder.files.checkpoints / name)
    newest = find_newest(back.checkpoints).checkpoint
    assert newest is not None
    assert newest.manifest.step == 4
    assert back.spec.read_text() == folder.files.spec.read_text()
    assert back.metrics.read_text().splitlines() == [f'{{"step": {step}}}' for step in (1, 2, 3, 4)]
    identity = read_identity(back.path)
    assert identity.run_id == "one"
    assert identity.history not in ("", "first")
    assert not identity.taken_up


def test_older_ones_go_and_what_is_damaged_is_left_out(store: ObjectStore, folder: Folder, tmp_path: Path) -> None:
    names = []
    for step in (2, 4, 6):
        names.append(folder.save(step))
        CheckpointCopy(folder.path, names[-1]).run(store)
        delete_older(store, names[-1], 2)
    assert {path.partition("/")[0] for path in store.sizes()} == set(names[1:])
    store.delete([f"{names[2]}/checkpoint/state.pt"])
    found = find_mirrored(store)
    assert (found.step, found.damage) == (4, [f"{names[2]} lacks checkpoint/state.pt"])
    store.write(f"{names[1]}/checkpoint/state.pt", [b"x" * 100], 100)
    with pytest.raises(CheckpointError, match="SHA-256"):
        bring_back(store, tmp_path / "back")
    assert not RunFolder(tmp_path / "back").spec.exists()


def test_a_fetch_that_broke_off_goes_on(gate: Gate, store: ObjectStore, folder: Folder, tmp_path: Path) -> None:
    CheckpointCopy(folder.path, folder.save(4, epoch=2, size=BIG)).run(store)
    found, back = find_mirrored(store), tmp_path / "back"
    with pytest.raises(FetchTimeout):
        fetch(store, found, back, within_s=0, progress=lambda done, size: None)
    gate.rule = lambda method, path: (0, "") if "manifest" in path else None
    with pytest.raises(ObjectStoreError):
        bring_back(store, back)
    assert find_newest(back / "checkpoints").checkpoint is None
    gate.rule = lambda method, path: None
    gate.seen.clear()
    bring_back(store, back)
    assert not [path for _, path in gate.seen if "state.pt" in path]
    assert find_newest(back / "checkpoints").checkpoint is not None
    with pytest.raises(RunDirError, match="has a whole checkpoint, of step 4"):
        bring_back(store, back)


def test_a_folder_that_has_lost_its_checkpoints_alone_gets_one(store: ObjectStore, folder: Folder) -> None:
    name = folder.save(4, epoch=2)
    CheckpointCopy(folder.path, name).run(store)
    store.write("step-000006.e5/checkpoint/x", [b"torso"], 5)
    shutil.rmtree(folder.files.checkpoints)
    bring_back(store, folder.path)
    newest = find_newest(folder.files.checkpoints).checkpoint
    assert newest is not None
    assert newest.directory.name == name
    assert newest_epoch(folder.files.checkpoints) == 5  # the next learner is of the sixth
    assert read_identity(folder.path).history == "first"


def test_a_folder_of_another_run_gets_none(store: ObjectStore, folder: Folder, tmp_path: Path) -> None:
    CheckpointCopy(folder.path, folder.save(4)).run(store)
    other = Folder(tmp_path / "other")
    identity = read_identity(other.path)
    other.files.identity.write_text(other.files.identity.read_text().replace('"one"', '"two"'))
    assert identity.run_id == "one"
    with pytest.raises(RunDirError, match="holds the run two"):
        bring_back(store, other.path)


def test_nothing_there_says_which_runs_there_are(store: ObjectStore, folder: Folder) -> None:
    CheckpointCopy(folder.path, folder.save(4)).run(store)
    with pytest.raises(NothingToFetch, match="There are one: add one to the URL"):
        find_mirrored(ObjectStore(f"s3://{BUCKET}/runs"))
    with pytest.raises(NothingToFetch, match="Nothing lies there"):
        find_mirrored(ObjectStore(f"s3://{BUCKET}/elsewhere"))
