"""What a disk refuses, in a sentence that names the path, what is free, and the cure. The disks are really full."""

import errno
import os
import resource
from pathlib import Path

import pytest

from dapo.host.files import append_line, follow_umask, write_json
from dapo.host.storage import StorageError, in_words, is_storage_error, number_in, probe, storage_error, told_in_words
from tests.support.disks import fill, small_disk


def refused(number: int, path: str | None = "/runs/x") -> OSError:
    return OSError(number, os.strerror(number), path)


def test_a_full_disk_is_named_with_the_path_and_what_is_free(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kib=512) as disk:
        fill(disk)
        with pytest.raises(OSError, match="No space left") as caught:
            write_json(disk / "summary.json", {"text": "x" * 10_000})
        assert is_storage_error(caught.value)
        said = in_words(caught.value, disk)
    assert said.startswith(f"the disk is full: {disk}")
    assert said.endswith("(0.0 MiB are free). Free some space, or use another folder")


def test_a_disk_without_inodes_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kib=2048) as disk:
        os.system(f"mount -o remount,nr_inodes=1 {disk}")
        with pytest.raises(OSError, match="No space left") as caught:
            (disk / "file").touch()
        assert "no further file fits: its inodes are used up" in in_words(caught.value)


def test_what_a_folder_refuses_is_found_by_trying(tmp_path: Path) -> None:
    assert probe(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with small_disk(tmp_path / "disk", kib=4096) as disk:
        assert probe(disk) is None
        fill(disk, leave_kib=512)
        found = probe(disk)
        assert found is not None
        assert (found.errno, found.filename) == (errno.ENOSPC, str(disk))
        os.system(f"mount -o remount,ro {disk}")
        found = probe(disk)
        assert found is not None
        assert in_words(found).startswith(f"the file system is read-only: {disk}")


def test_too_many_open_files_is_named_with_its_limit(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            (tmp_path / "file").open("w")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert in_words(caught.value) == f"too many files are open: {tmp_path}/file. Raise the limit (ulimit -n)"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EDQUOT, "the disk quota is used up: /runs/x ("),
        (errno.EACCES, "permission denied: /runs/x. Allow writing there"),
        (errno.EROFS, "the file system is read-only: /runs/x. Use another folder"),
    ],
)
def test_each_trouble_has_its_words_and_its_cure(number: int, said: str) -> None:
    assert in_words(refused(number)).startswith(said)
    assert in_words(refused(number, None), Path("/runs/x")).startswith(said)


def test_other_errors_keep_their_words() -> None:
    for error in (ValueError("no number"), FileNotFoundError(errno.ENOENT, "No such file", "a")):
        assert in_words(error) == str(error)
        assert not is_storage_error(error)
    assert in_words(ValueError()) == "ValueError"


def test_errors_of_libraries_are_read(tmp_path: Path) -> None:
    hidden = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    found = storage_error(hidden, tmp_path)
    assert found is not None
    assert (found.errno, found.filename) == (errno.ENOSPC, str(tmp_path))
    try:
        try:
            raise refused(errno.EROFS)
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error
    except RuntimeError as error:
        found = storage_error(error, tmp_path)
    assert found is not None
    assert found.errno == errno.EROFS
    assert storage_error(RuntimeError("shapes differ"), tmp_path) is None


def test_of_several_troubles_in_a_log_the_last_counts() -> None:
    assert number_in("x: Permission denied\ny: No space left on device\nbye") == errno.ENOSPC
    assert number_in("Ready to accept connections") is None


def test_a_command_ends_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: the file system is read-only: /runs/x"), told_in_words(tmp_path):
        raise refused(errno.EROFS)
    with pytest.raises(ValueError, match="mine"), told_in_words(tmp_path, StorageError):
        raise ValueError("mine")
    with pytest.raises(FileNotFoundError), told_in_words(tmp_path):
        (tmp_path / "absent").read_text()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_everything_in_a_folder_follows_the_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True, mode=0o700)
    (folder / "deep" / "weights").touch(0o600)
    (tmp_path / "secret").touch(0o600)
    (folder / "link").symlink_to(tmp_path / "secret")
    before = os.umask(umask)
    try:
        follow_umask(folder)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / "deep", folder / "deep" / "weights")]
    assert modes == [0o777 & ~umask, 0o777 & ~umask, 0o666 & ~umask]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_line_is_whole_or_not_there(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kib=64) as disk:
        append_line(disk / "metrics.jsonl", b"one\n")
        with pytest.raises(OSError, match="No space left"):
            append_line(disk / "metrics.jsonl", b"x" * (1 << 20))
        assert (disk / "metrics.jsonl").read_bytes() == b"one\n"
