"""What is remembered of folders is what reading them again would give."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.host import remembered
from dapo.host.remembered import Briefly, LastAnswer, Remembered, file_state
from tests.support.waiting import eventually

NAMES = ("a", "b")
FOLDERS = ("one", "two", "three")
CHANGES = st.sampled_from(("in place", "replaced", "deleted", "mode", "gone", "asked", "pruned"))


def read(folder: Path) -> tuple[bytes, ...]:
    """Raises FileNotFoundError where there is no `a`."""
    return (folder / "a").read_bytes(), (folder / "b").read_bytes() if (folder / "b").exists() else b""


def found(get, folder: Path) -> tuple[bytes, ...] | None:
    try:
        return get(folder)
    except FileNotFoundError:
        return None


def change(folder: Path, name: str, how: str, content: bytes) -> None:
    """Leaves another state of the file behind, however coarse the clock of the file system."""
    folder.mkdir(exist_ok=True)
    path, before = folder / name, file_state(folder / name)
    if how == "deleted":
        path.unlink(missing_ok=True)
        return
    for _ in range(10_000):
        if how == "replaced":
            scratch = folder / "scratch"
            scratch.write_bytes(content)
            scratch.replace(path)
        else:
            path.write_bytes(content)
        if file_state(path) != before:
            return
    raise AssertionError("the clock of the file system stands still")


@pytest.fixture(autouse=True)
def every_file_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_TICK_NS", -3_600_000_000_000)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(FOLDERS), st.sampled_from(NAMES), CHANGES, st.binary(min_size=2, max_size=2), st.booleans()
        ),
        max_size=20,
    ),
    st.integers(0, 3),
)
def test_it_gives_what_reading_anew_gives_after_any_changes(changes, most: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        memory = Remembered(read, NAMES, most)
        folders = [Path(root, name) for name in FOLDERS]
        for folder, name, how, content, all_asked in changes:
            path = Path(root, folder)
            if how == "gone":
                for one in NAMES:
                    (path / one).unlink(missing_ok=True)
            elif how == "mode" and (path / name).exists():
                (path / name).chmod(0o600)
            elif how == "pruned":
                memory.keep_only({str(path)})
                assert len(memory) <= 1
            elif how in ("in place", "replaced", "deleted"):
                change(path, name, how, content)
            for one in folders if all_asked else [path]:
                assert found(lambda place: memory.get(str(place)), one) == found(read, one)
            assert len(memory) <= most


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    asked = []
    memory = Remembered(lambda folder: asked.append(folder) or len(asked), NAMES, 10)
    (tmp_path / "a").write_text("x")
    assert [memory.get(str(tmp_path)) for _ in range(3)] == [1, 1, 1]
    change(tmp_path, "b", "in place", b"new")
    assert memory.get(str(tmp_path)) == 2
    (tmp_path / "c").write_text("nothing that counts")
    assert memory.get(str(tmp_path)) == 2


def test_what_changed_just_now_is_read_again_as_it_may_change_once_more_within_the_same_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    memory = Remembered(read, NAMES, 10)
    (tmp_path / "a").write_text("12")
    times = os.stat(tmp_path / "a")
    assert memory.get(str(tmp_path)) == (b"12", b"")
    (tmp_path / "a").write_text("34")
    os.utime(tmp_path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr(remembered, "file_state", lambda path: file_state(path) and (1, 2, times.st_mtime_ns, 0))
    assert memory.get(str(tmp_path)) == (b"34", b"")


def test_all_who_ask_within_a_moment_get_one_answer_and_later_ones_another() -> None:
    async def main() -> None:
        found, begun = Briefly(60), []

        async def answer() -> int:
            begun.append(mine := len(begun))
            await asyncio.sleep(0)
            return mine

        assert await asyncio.gather(*(found.get("key", answer) for _ in range(5)), found.get("other", answer)) == [
            *([0] * 5),
            1,
        ]
        assert await found.get("key", answer) == 0
        found = Briefly(0.01)
        assert await found.get("key", answer) == 2
        await eventually(lambda: not found._asked)
        assert await found.get("key", answer) == 3

    asyncio.run(main())


def test_an_answer_outlives_who_asked_first_and_an_error_reaches_all_who_wait() -> None:
    async def main() -> None:
        found, may_end = Briefly(60), asyncio.Event()

        async def answer() -> str:
            await may_end.wait()
            return "found"

        first, second = (asyncio.create_task(found.get("key", answer)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        may_end.set()
        assert first.cancelled()
        assert await second == "found"

        async def fail() -> str:
            raise ValueError("no")

        failed = await asyncio.gather(*(found.get("bad", fail) for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in failed] == ["no"] * 3

    asyncio.run(main())


def test_the_last_answer_holds_until_another_is_found() -> None:
    async def main() -> None:
        kept, answers = LastAnswer("none", every_s=60, within_s=0.01), list[str | None]()
        may_end = asyncio.Event()
        may_end.set()

        async def find() -> str | None:
            await may_end.wait()
            return answers.pop(0)

        answers[:] = ["first"]
        assert [await kept.get("key", find) for _ in range(2)] == ["first", "first"]
        answers[:] = [None]
        assert await kept.get("other", find) == "first"
        may_end.clear()
        answers[:] = ["late"]
        assert [await kept.get(key, find) for key in ("third", "fourth")] == ["first", "first"]
        may_end.set()
        await eventually(lambda: kept._search is None)
        assert await kept.get("third", find) == "late"
        assert answers == []

    asyncio.run(main())


def test_the_last_answer_is_asked_for_again_once_it_is_old() -> None:
    async def main() -> None:
        kept, times = LastAnswer(0, every_s=0, within_s=60), list[int]()

        async def find() -> int:
            times.append(0)
            return len(times)

        assert [await kept.get("key", find) for _ in range(3)] == [1, 2, 3]

        async def fail() -> int:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await kept.get("key", fail)
        assert await kept.get("key", find) == 4

    asyncio.run(main())
