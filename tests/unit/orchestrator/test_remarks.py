"""What people say of a run: its limits, and that no change is lost or half done."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.folder import RunFolder
from dapo.records.identity import RunIdentity, write_identity
from services.orchestrator.records import turns
from services.orchestrator.records.remarks import (
    UNSAID,
    BadRemark,
    Edit,
    Remarks,
    RemarksDamaged,
    changing,
    read_remarks,
    write_remarks,
)

KEYS = st.sampled_from(["team", "a/b", "x.y-z_1"])
VALUES = st.text(st.characters(codec="utf-8"), max_size=20)
EDITS = st.builds(
    Edit,
    st.dictionaries(KEYS, st.none() | VALUES),
    st.none() | VALUES,
    st.none() | st.integers(-100, 100),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_identity(tmp_path, RunIdentity("r", "2026-01-02T03:04:05.000+00:00"))
    return tmp_path


async def change(folder: Path, edit: Edit) -> None:
    async with changing(folder, edit):
        pass


@given(st.lists(EDITS, max_size=5))
def test_the_last_word_on_each_label_and_field_counts(edits: list[Edit]) -> None:
    found = UNSAID
    for edit in edits:
        found = edit.of(found)
    labels: dict[str, str | None] = {}
    for edit in edits:
        labels.update(edit.labels)
    assert found.labels == {key: value for key, value in labels.items() if value is not None}
    assert found.notes == next((one.notes for one in reversed(edits) if one.notes is not None), "")
    assert found.priority == next((one.priority for one in reversed(edits) if one.priority is not None), 0)


@pytest.mark.parametrize(
    ("remarks", "field"),
    [
        (Remarks({"a b": "x"}), "labels.a b"),
        (Remarks({"": "x"}), "labels."),
        (Remarks({"k\n": "x"}), "labels.k\n"),
        (Remarks({"k" * 64: "x"}), f"labels.{'k' * 64}"),
        (Remarks({"team": "x" * 256}), "labels.team"),
        (Remarks({str(number): "" for number in range(65)}), "labels"),
        (Remarks(notes="é" * 8193), "notes"),
        (Remarks(priority=101), "priority"),
        (Remarks(priority=-101), "priority"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_with_its_field(remarks: Remarks, field: str) -> None:
    with pytest.raises(BadRemark) as caught:
        remarks.check()
    assert caught.value.field == field


def test_what_is_within_its_limits_is_kept_as_it_is(folder: Path) -> None:
    labels = {f"{number:063}": "ü" * 255 for number in range(64)}
    remarks = Remarks(labels, "é" * 8192, -100)
    remarks.check()
    assert read_remarks(folder) == UNSAID
    write_remarks(folder, remarks)
    assert read_remarks(folder) == remarks


def test_changes_that_come_at_once_lose_nothing(folder: Path) -> None:
    async def scenario() -> None:
        await asyncio.gather(*(change(folder, Edit({f"k{number}": "v"})) for number in range(30)))

    asyncio.run(scenario())
    assert read_remarks(folder).labels == {f"k{number}": "v" for number in range(30)}


def test_a_change_whose_other_half_fails_is_not_made(folder: Path) -> None:
    async def fail() -> None:
        async with changing(folder, Edit({"team": None}, "after", 3)):
            raise RuntimeError

    asyncio.run(change(folder, Edit({"team": "a"}, "before")))
    before = sorted(folder.iterdir())
    with pytest.raises(RuntimeError):
        asyncio.run(fail())
    assert read_remarks(folder) == Remarks({"team": "a"}, "before")
    assert sorted(folder.iterdir()) == before


def test_a_change_that_is_refused_has_no_other_half(folder: Path) -> None:
    entered = False

    async def refused() -> None:
        nonlocal entered
        async with changing(folder, Edit({f"more-{number}": "" for number in range(5)})):
            entered = True

    asyncio.run(change(folder, Edit({str(number): "" for number in range(60)})))
    with pytest.raises(BadRemark, match="65 are more than 64"):
        asyncio.run(refused())
    assert not entered


def test_a_turn_is_waited_for_no_longer_than_its_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_WAIT_S", 0.05)

    async def scenario() -> None:
        async with turns.taking_turns(folder):
            with pytest.raises(TimeoutError, match="Ask again"):
                await change(folder, Edit(notes="x"))
        await change(folder, Edit(notes="x"))

    asyncio.run(scenario())


def test_of_a_run_that_was_deleted_nothing_is_said(folder: Path) -> None:
    RunFolder(folder).identity.unlink()
    with pytest.raises(FileNotFoundError):
        asyncio.run(change(folder, Edit(notes="x")))
    assert not RunFolder(folder).remarks.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"labels": 3, "notes": "", "priority": 0}', "\xff"])
def test_a_damaged_file_is_named_and_not_written_over(folder: Path, text: str) -> None:
    path = RunFolder(folder).remarks
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RemarksDamaged, match="is damaged: restore it"):
        asyncio.run(change(folder, Edit(notes="x")))
    assert path.read_text(encoding="latin-1") == text


def test_the_file_is_plain_json(folder: Path) -> None:
    write_remarks(folder, Remarks({"team": "a"}, "n", 2))
    found = json.loads(RunFolder(folder).remarks.read_text())
    assert found == {"labels": {"team": "a"}, "notes": "n", "priority": 2}
