"""The end of a log, and what comes after it."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.catalogue import logs
from services.orchestrator.catalogue.logs import LogNotFound, find_log, read_log


def read(path: Path, lines: int) -> list[str]:
    async def all_of_it() -> list[str]:
        return [line async for line in read_log(path, lines, follow=False, over=never)]

    return asyncio.run(all_of_it())


async def never() -> bool:
    return False


@given(text=st.text(st.sampled_from("a\né\r"), max_size=60), lines=st.integers(1, 8), block=st.integers(1, 7))
def test_the_last_lines_are_those_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, lines: int, block: int
) -> None:
    path = tmp_path_factory.mktemp("logs") / "w.log"
    path.write_bytes(text.encode())
    whole = text.split("\n")
    expected = [line + "\n" for line in whole[:-1]] + [whole[-1]] * bool(whole[-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_BLOCK", block)
        assert read(path, lines) == expected[-lines:]


def test_a_log_is_followed_until_the_run_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_POLL_S", 0.0)
    path = tmp_path / "w.log"
    path.write_text("one\ntw")
    asked = 0

    async def over() -> bool:
        nonlocal asked
        asked += 1
        with path.open("a") as file:
            file.write({1: "o\n", 2: "", 3: "three"}.get(asked, ""))
        return asked == 3

    async def follow() -> list[str]:
        return [line async for line in read_log(path, 10, follow=True, over=over)]

    assert asyncio.run(follow()) == ["one\n", "two\n", "three"]


def test_what_is_no_text_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    path.write_bytes(b"a\xff\0\n")
    assert read(path, 1) == ["a��\n"]


@pytest.mark.parametrize("worker", ["", "..", "../../spec", "none", "a\0b", "/etc/passwd"])
def test_only_logs_of_the_run_are_found(tmp_path: Path, worker: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "learner-0.log").touch()
    (tmp_path / "spec.log").touch()
    assert find_log(tmp_path, "learner-0") == tmp_path / "logs" / "learner-0.log"
    with pytest.raises(LogNotFound, match="there are: learner-0"):
        find_log(tmp_path, worker)
