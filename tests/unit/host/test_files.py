"""Files that are whole or not there, and the ends of logs."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from dapo.host.files import replacing, tail, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with replacing(path) as scratch:
        assert scratch.parent == tmp_path
        scratch.write_text("ne")
        assert path.read_text() == "old"
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_nothing_appears_where_the_first_writing_fails(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"set": {1}})
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_writers_at_once_leave_one_whole_file(tmp_path):
    path, start = tmp_path / "file", threading.Barrier(9)
    texts = [f"{number}" * 100_000 for number in range(8)]
    seen = set()

    def write(text: str) -> None:
        start.wait()
        for _ in range(20):
            write_text(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    write_text(path, texts[0])
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        seen.add(path.read_text())
    assert seen <= set(texts)
    assert path.read_text() in texts
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_raises_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fill() -> None:
        with replacing(path) as scratch:
            scratch.symlink_to("/dev/full")
            scratch.write_text("new")

    with pytest.raises(OSError, match="No space left on device"):
        fill()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("failing", "text"), [(0, "old"), (1, "new")])
def test_a_durable_file_is_on_the_disk_before_and_after_it_replaces(tmp_path, monkeypatch, failing, text):
    path = tmp_path / "file"
    path.write_text("old")
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        if len(synced) > failing:
            raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="the disk fails"):
        write_text(path, "new", durable=True)
    assert path.read_text() == text
    assert names(tmp_path) == ["file"]
    assert [one.parent for one in synced] == [tmp_path, tmp_path.parent][: failing + 1]
    assert synced[0].name != "file"


def test_only_a_durable_file_is_synced(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    write_json(tmp_path / "file", {})
    assert calls == []
    write_json(tmp_path / "file", {"a": "ü"}, durable=True)
    assert len(calls) == 2
    assert (tmp_path / "file").read_bytes() == '{\n  "a": "ü"\n}\n'.encode()


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for value in (1, 2):
        write_json(tmp_path / "link", value)
        assert (tmp_path / "link").is_symlink()
        assert json.loads((tmp_path / "file").read_text()) == value
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    read: list[str] = []
    reader.start()
    write_text(tmp_path / "pipe", "text")
    reader.join()
    assert read == ["text"]
    assert names(tmp_path) == ["file", "link", "pipe"]


def test_the_tail_of_a_log(tmp_path):
    path = tmp_path / "log"
    assert tail(path) == ""
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(path, 2) == "line 98\nline 99"
    assert len(tail(path).splitlines()) == 30
    path.write_bytes(b"a\xff\nb")
    assert tail(path) == "a�\nb"


def test_the_tail_of_a_long_log_reads_its_end_only(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe\nend\n")
    assert tail(path, 2) == "the\nend"
    path.write_text("ü" * 100_000)
    assert len(tail(path)) <= 64 << 10
