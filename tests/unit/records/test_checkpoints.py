"""Checkpoints on the disk: which count, which are whole, which go; and what a learner that was replaced can do."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.checkpoints import (
    CheckpointDamaged,
    CheckpointError,
    Manifest,
    directory_name,
    file_sizes,
    find_newest,
    find_step,
    list_marked,
    mark,
    newest_epoch,
    newest_written,
    prune,
    retained,
    step_and_epoch,
    write_manifest,
)

STEPS = st.integers(0, 10**7)


def write(root: Path, step: int, epoch: int) -> str:
    directory = root / directory_name(step, epoch)
    (directory / "shards").mkdir(parents=True)
    (directory / "shards" / "rank0.pt").write_bytes(bytes(step + epoch))
    write_manifest(directory, Manifest(step, epoch, 0, 1, 0, "float32", file_sizes(directory)))
    return directory.name


def found_step(root: Path) -> int | None:
    checkpoint = find_newest(root).checkpoint
    return checkpoint and checkpoint.manifest.step


@given(step=STEPS, epoch=STEPS)
def test_a_name_tells_step_and_epoch(step: int, epoch: int) -> None:
    assert step_and_epoch(directory_name(step, epoch)) == (step, epoch)


def test_files_and_folders_are_on_the_disk_before_the_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    root = tmp_path / "run" / "checkpoints"
    name = write(root, 5, 1)
    within = [root / name / "shards", root / name / "shards" / "rank0.pt"]
    assert sorted(synced[:2]) == list(map(str, within))
    manifest, *folders = synced[2:]
    assert Path(manifest).name.startswith(".manifest.json.")
    assert folders == list(map(str, (root / name, root, root.parent)))
    mark(root, 1, [name])
    assert synced[-1] == str(root)
    assert Path(synced[-2]).name.startswith(".latest.e1.json.")


def test_without_a_marker_there_is_none(tmp_path: Path) -> None:
    assert find_newest(tmp_path / "nowhere") == (None, [])
    write(tmp_path, 5, 1)
    assert find_newest(tmp_path) == (None, [])
    assert newest_epoch(tmp_path) == 1


def test_names_without_an_epoch_are_read(tmp_path: Path) -> None:
    write(tmp_path, 5, 0)
    (tmp_path / "latest.json").write_text(json.dumps({"directory": "step-000005"}))
    assert found_step(tmp_path) == 5
    assert newest_epoch(tmp_path) == 0
    mark(tmp_path, 1, [write(tmp_path, 10, 1), "step-000005"])
    assert [path.name for path in list_marked(tmp_path)] == ["step-000010.e1", "step-000005"]


def test_a_learner_that_was_replaced_takes_nothing_from_its_successor(tmp_path: Path) -> None:
    """It wakes up between its last question and its marker, at the very step that its successor has reached, too."""
    first = write(tmp_path, 5, 1)
    mark(tmp_path, 1, [first])
    late = write(tmp_path, 10, 1)
    mark(tmp_path, 2, [write(tmp_path, 10, 2), first])
    before = file_sizes(tmp_path / directory_name(10, 2))

    mark(tmp_path, 1, [late, first])
    prune(tmp_path, 1, [late, first])
    checkpoint = find_newest(tmp_path).checkpoint
    assert checkpoint is not None
    assert checkpoint.manifest.incarnation == 2
    assert file_sizes(checkpoint.directory) == before

    prune(tmp_path, 2, [directory_name(10, 2), first])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.e2.json", "step-000005.e1", "step-000010.e2"]


@pytest.mark.parametrize("harm", ["missing", "shorter", "no manifest", "half a manifest", "no directory"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, harm: str) -> None:
    names = [write(tmp_path, step, 1) for step in (10, 5)]
    mark(tmp_path, 1, names)
    newest = tmp_path / names[0]
    file, manifest = newest / "shards" / "rank0.pt", newest / "manifest.json"
    match harm:
        case "missing":
            file.unlink()
        case "shorter":
            file.write_bytes(b"cut")
        case "no manifest":
            manifest.unlink()
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:40])
        case "no directory":
            newest.rename(tmp_path / "elsewhere")
    checkpoint, damage = find_newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.manifest.step == 5
    assert len(damage) == 1
    assert str(newest) in damage[0]
    with pytest.raises(CheckpointDamaged):
        find_step(tmp_path, 10)


def test_a_manifest_of_another_release_is_no_damage(tmp_path: Path) -> None:
    names = [write(tmp_path, step, 1) for step in (10, 5)]
    mark(tmp_path, 1, names)
    manifest = tmp_path / names[0] / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"learning_rate": 1e-6}))
    with pytest.raises(CheckpointError, match="written by another release of dapo"):
        find_newest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"checkpoints": "step-000005.e1"}', '{"checkpoints": ["../../etc"]}'])
def test_a_marker_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "latest.e1.json").write_text(text)
    with pytest.raises(CheckpointDamaged, match=r"latest\.e1\.json"):
        find_newest(tmp_path)


def test_a_step_that_was_not_kept_is_told_with_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is none yet"):
        find_step(tmp_path, 3)
    mark(tmp_path, 1, [write(tmp_path, step, 1) for step in (10, 5)])
    assert find_step(tmp_path, 5).manifest.step == 5
    with pytest.raises(CheckpointError, match="no checkpoint of step 3: those kept are of the steps 5, 10"):
        find_step(tmp_path, 3)


@given(
    steps=st.sets(STEPS, min_size=1, max_size=12),
    last=st.integers(1, 5),
    every=st.none() | st.integers(1, 20),
    data=st.data(),
)
def test_retention_keeps_the_newest_every_so_many_and_the_best(
    steps: set[int], last: int, every: int | None, data: st.DataObject
) -> None:
    ordered = sorted(steps, reverse=True)
    best = data.draw(st.none() | st.sampled_from(ordered))
    names = [directory_name(step, 1) for step in ordered]
    kept = [step_and_epoch(name)[0] for name in retained(names, last=last, every_steps=every, best_step=best)]
    assert kept[:last] == ordered[:last]
    assert set(kept[last:]) == {
        step for step in ordered[last:] if step == best or (every is not None and step % every == 0)
    }
    # What was kept once is kept again, however often it is asked.
    again = [directory_name(step, 1) for step in kept]
    assert retained(again, last=last, every_steps=every, best_step=best) == [directory_name(step, 1) for step in kept]


def test_when_the_newest_that_counts_was_written(tmp_path: Path) -> None:
    assert newest_written(tmp_path / "none") is None
    older, newer = write(tmp_path, 5, 1), write(tmp_path, 10, 1)
    write(tmp_path, 15, 1)
    assert newest_written(tmp_path) is None
    for name, at in ((older, 1_000), (newer, 2_000)):
        os.utime(tmp_path / name / "manifest.json", (at, at))
    mark(tmp_path, 1, [newer, older])
    assert newest_written(tmp_path) == (10, 2_000)
    (tmp_path / newer / "manifest.json").unlink()
    assert newest_written(tmp_path) == (5, 1_000)
    (tmp_path / "latest.e1.json").write_text("{")
    with pytest.raises(CheckpointDamaged):
        newest_written(tmp_path)
