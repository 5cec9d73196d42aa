"""Checkpoints go to a real S3 server, also where it dies, refuses or is full."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from dapo.records.checkpoints import find_newest
from dapo.records.mirror import copying
from dapo.records.mirror import store as stores
from dapo.records.mirror.copying import CheckpointCopy, CheckpointGone, CopyLeft, delete_older, sweep
from dapo.records.mirror.fetching import NothingToFetch, find_mirrored
from dapo.records.mirror.store import ObjectStore, ObjectStoreError
from tests.support.paths import REPO
from tests.support.store.folder import Folder, bring_back, files
from tests.support.store.server import BUCKET, RUN_URL, S3, Gate, Rule, denied_user, environment, serving

BIG = 20 << 20
"""Bytes: three parts, two ranges."""


def refuse(number: int, status: int, code: str, method: str = "PUT") -> Rule:
    """From the request of that number on."""
    numbers = count(1)
    return lambda asked, path: (status, code) if asked == method and next(numbers) >= number else None


def test_a_copy_that_broke_off_does_not_count_and_goes_on_where_it_was(
    gate: Gate, store: ObjectStore, folder: Folder, tmp_path: Path
) -> None:
    copy = CheckpointCopy(folder.path, folder.save(4))
    gate.rule = refuse(3, 0, "")
    with pytest.raises(ObjectStoreError, match=r"s3://checkpoints/runs/one cannot be written"):
        copy.run(store)
    gate.rule = lambda method, path: None
    assert len(store.sizes()) == 2
    with pytest.raises(NothingToFetch, match="has no inventory: it was not copied to its end"):
        bring_back(store, tmp_path / "back")
    gate.seen.clear()
    copy.run(store)
    bring_back(store, tmp_path / "back")
    written = [path for method, path in gate.seen if method == "PUT"]
    assert len(written) == len(set(written)) == 6  # one file, the manifest, three records, the inventory
    assert written[-1].endswith("inventory.json")


def test_a_server_that_is_killed_in_the_middle_loses_all_and_gets_it_anew(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it kept: moto keeps nothing."""
    copy = CheckpointCopy(folder.path, folder.save(4, size=4 * BIG))
    with serving(tmp_path / "first") as first:
        first.make_bucket()
        for name, value in environment(first.url).items():
            monkeypatch.setenv(name, value)
        reached = threading.Event()
        read = CheckpointCopy._read

        def then_killed(self: CheckpointCopy, file: Path) -> Iterator[bytes]:
            for number, chunk in enumerate(read(self, file)):
                if number == 30:
                    first.kill()
                    reached.set()
                yield chunk

        monkeypatch.setattr(CheckpointCopy, "_read", then_killed)
        with pytest.raises(ObjectStoreError, match=r"cannot be written \(step-000004.e1/checkpoint/state.pt\)"):
            copy.run(ObjectStore(RUN_URL))
        assert reached.is_set()
        monkeypatch.setattr(CheckpointCopy, "_read", read)
    with serving(tmp_path / "second") as second:
        second.make_bucket()
        monkeypatch.setenv("AWS_ENDPOINT_URL", second.url)
        store = ObjectStore(RUN_URL)
        copy.run(store)
        bring_back(store, tmp_path / "back")
    assert files(tmp_path / "back" / "checkpoints").keys() >= {"step-000004.e1/state.pt"}


def test_keys_that_nobody_knows_and_that_allow_nothing(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "log", INITIAL_NO_AUTH_ACTION_COUNT="3") as strict:
        strict.make_bucket()
        nobody = denied_user(strict)
        for keys, code in ((environment(strict.url), "InvalidAccessKeyId"), (nobody, "AccessDenied")):
            for name, value in keys.items():
                monkeypatch.setenv(name, value)
            with pytest.raises(ObjectStoreError) as refused:
                CheckpointCopy(folder.path, folder.save(4 if code[0] == "I" else 6)).run(ObjectStore(RUN_URL))
            assert code in str(refused.value)
            assert "Give the run service's environment credentials" in str(refused.value)
            assert keys["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(403, "AccessDenied", "AccessDenied: no. Give the run"), (507, "XMinioStorageFull", "XMinioStorageFull: no")],
)
def test_a_bucket_that_takes_nothing_more(
    gate: Gate, store: ObjectStore, folder: Folder, status: int, code: str, said: str
) -> None:
    gate.rule = refuse(2, status, code)
    copy = CheckpointCopy(folder.path, folder.save(4))
    with pytest.raises(ObjectStoreError, match=said):
        copy.run(store)
    gate.rule = lambda method, path: None
    copy.run(store)
    assert find_mirrored(store).step == 4


def test_a_server_that_never_answers(store: ObjectStore, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_REQUEST_S", 0.5)
    monkeypatch.setattr(stores, "_RETRY_S", 1.0)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ObjectStoreError, match="cannot be listed"):
            CheckpointCopy(folder.path, folder.save(4)).run(ObjectStore(RUN_URL))
    assert time.monotonic() - began < 10


def test_a_bucket_that_is_not_there(gate: Gate, folder: Folder) -> None:
    with pytest.raises(ObjectStoreError, match=r"NoSuchBucket.*Make the bucket, or name another"):
        CheckpointCopy(folder.path, folder.save(4)).run(ObjectStore("s3://nowhere/one"))


def test_a_checkpoint_that_is_rotated_away_meanwhile(gate: Gate, store: ObjectStore, folder: Folder) -> None:
    first = folder.save(4, keep=1)

    def rotate(method: str, path: str) -> None:
        if method == "PUT" and folder.files.checkpoints.joinpath(first).exists():
            folder.save(6, keep=1)
            shutil.rmtree(folder.files.checkpoints / first)

    gate.rule = rotate
    CheckpointCopy(folder.path, first).run(store)
    assert not (folder.files.checkpoints / first).exists()
    assert find_mirrored(store).name == first
    assert not list(folder.path.glob(".mirror*"))
    with pytest.raises(CheckpointGone):
        CheckpointCopy(folder.path, first).run(store)


def test_a_checkpoint_that_is_rotated_away_on_a_disk_without_links(
    gate: Gate, store: ObjectStore, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(copying.os, "link", no_links)
    first = folder.save(4, keep=1)

    def rotate(method: str, path: str) -> None:
        if method == "PUT" and folder.files.checkpoints.joinpath(first).exists():
            folder.save(6, keep=1)
            shutil.rmtree(folder.files.checkpoints / first)

    gate.rule = rotate
    with pytest.raises(CheckpointGone):
        CheckpointCopy(folder.path, first).run(store)
    second = "step-000006.e1"
    CheckpointCopy(folder.path, second).run(store)
    assert delete_older(store, second, 2) == [first]  # a torso
    assert {path.partition("/")[0] for path in store.sizes()} == {second}


def test_whichever_request_fails_something_whole_is_there(
    gate: Gate, store: ObjectStore, folder: Folder, tmp_path: Path
) -> None:
    """While the third checkpoint is copied and the first is deleted, request by request."""
    for step in (2, 4):
        CheckpointCopy(folder.path, folder.save(step)).run(store)
    before = {path: store.read(path) for path in store.sizes()}
    name, seen = folder.save(6), set()
    for failing in count(1):
        numbers = count(1)
        gate.rule = lambda method, path, at=failing, ask=numbers: (403, "AccessDenied") if next(ask) == at else None
        try:
            CheckpointCopy(folder.path, name).run(store)
            delete_older(store, name, 2)
            failed = False
        except ObjectStoreError:
            failed = True
        gate.rule = lambda method, path: None
        found = find_mirrored(store)
        bring_back(store, tmp_path / str(failing))
        seen.add(found.step)
        assert find_newest(tmp_path / str(failing) / "checkpoints").checkpoint is not None
        if not failed:
            break
        # As it was before, so that each request fails once.
        store.delete(list(store.sizes().keys() - before.keys()))
        for path in before.keys() - store.sizes().keys():
            store.write(path, [before[path]], len(before[path]))
    assert seen == {4, 6}
    assert {path.partition("/")[0] for path in store.sizes()} == {"step-000004.e1", name}


def test_a_copy_that_is_left_leaves_no_upload_behind(moto: S3, store: ObjectStore, folder: Folder) -> None:
    copy = CheckpointCopy(folder.path, folder.save(4, size=BIG))
    copying_chunk, read = count(), CheckpointCopy._read

    def left_later(self: CheckpointCopy, file: Path) -> Iterator[bytes]:
        for chunk in read(self, file):
            if next(copying_chunk) == 12:
                copy.leave()
            yield chunk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying.CheckpointCopy, "_read", left_later)
        with pytest.raises(CopyLeft):
            copy.run(store)
    assert b"<Upload>" not in moto.ask("GET", f"/{BUCKET}?uploads")
    assert not [path for path in store.sizes() if "state.pt" in path]


def test_a_checkpoint_of_that_name_from_another_world_is_replaced(store: ObjectStore, folder: Folder) -> None:
    name = folder.save(4)
    CheckpointCopy(folder.path, name).run(store)
    before = store.read(f"{name}/checkpoint/state.pt")
    shutil.rmtree(folder.files.checkpoints)
    folder.save(4, size=50)
    CheckpointCopy(folder.path, name).run(store)
    assert store.read(f"{name}/checkpoint/state.pt") != before
    assert find_mirrored(store).damage == []
    delete_older(store, name, 1)


def test_a_process_that_is_killed_in_the_middle_leaves_nothing_that_counts(
    gate: Gate, store: ObjectStore, folder: Folder, tmp_path: Path
) -> None:
    name, puts, reached = folder.save(4, size=BIG), count(1), threading.Event()

    def slowly(method: str, path: str) -> None:
        if method == "PUT" and next(puts) >= 2:
            reached.set()
            time.sleep(3)

    gate.rule = slowly
    run = (
        "import sys; from pathlib import Path; from dapo.records.mirror.copying import CheckpointCopy; "
        "from dapo.records.mirror.store import ObjectStore; "
        "CheckpointCopy(Path(sys.argv[1]), sys.argv[2]).run(ObjectStore(sys.argv[3]))"
    )
    process = subprocess.Popen([sys.executable, "-c", run, str(folder.path), name, RUN_URL], cwd=REPO)
    assert reached.wait(30)
    process.kill()
    assert process.wait() == -9
    gate.rule = lambda method, path: None
    with pytest.raises(NothingToFetch):
        find_mirrored(store)
    assert list(folder.path.glob(".mirror-*"))
    sweep(folder.path)
    assert not list(folder.path.glob(".mirror-*"))
    CheckpointCopy(folder.path, name).run(store)
    bring_back(store, tmp_path / "back")
    assert files(tmp_path / "back" / "checkpoints" / name) == files(folder.files.checkpoints / name)


def test_two_leaders_that_copy_the_same_checkpoint_leave_it_whole(
    gate: Gate, store: ObjectStore, folder: Folder, tmp_path: Path
) -> None:
    """One was frozen, and has shorter records."""
    name = folder.save(4, size=BIG)
    metrics, began = folder.files.metrics, threading.Barrier(2)
    listed = count()

    def together(method: str, path: str) -> None:
        if method == "GET" and next(listed) < 2:  # both ask what is there, and find nothing
            began.wait(20)

    gate.rule = together
    older, newer = CheckpointCopy(folder.path, name), CheckpointCopy(folder.path, name)
    first = threading.Thread(target=older.run, args=(store,))
    first.start()
    metrics.write_text(metrics.read_text() + 'ep": 5}\n')
    newer.run(store)
    first.join(60)
    assert not first.is_alive()
    gate.rule = lambda method, path: None
    assert find_mirrored(store).damage == []
    bring_back(store, tmp_path / "back")
    assert find_newest(tmp_path / "back" / "checkpoints").checkpoint is not None


def test_a_mounted_folder_does_as_well(folder: Folder, tmp_path: Path) -> None:
    store = ObjectStore(f"file://{tmp_path}/mounted/one")
    for step in (2, 4):
        name = folder.save(step)
        CheckpointCopy(folder.path, name).run(store)
        delete_older(store, name, 1)
    bring_back(store, tmp_path / "back")
    assert find_mirrored(store).step == 4
    assert len(list((tmp_path / "mounted" / "one").iterdir())) == 1
