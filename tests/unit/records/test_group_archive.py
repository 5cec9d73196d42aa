"""What is kept in a run's folder of its groups and dead letters, over the run's ends."""

import pytest

from dapo.bus.parts.decisions import Frontier
from dapo.records import group_archive
from dapo.records.folder import RunFolder
from dapo.records.group_archive import (
    dead_letter,
    read_archived_group,
    read_dead_letters,
    rewind_group_archive,
    write_dead_letters,
    write_group_archive,
)
from tests.support.samples import record


def stored(number: int, state: str = "trained", **fields: str) -> tuple[str, dict[bytes, bytes]]:
    found = record(number=number)
    values = {"state": state, "reason": "", "stream": "prompts", "attempts": "1", "trail": "1000 issued\n", **fields}
    grades = {f"grade:{grade.completion.index}": grade.SerializeToString() for grade in found.grades}
    texts = {name: value.encode() for name, value in values.items()}
    return found.group_id, {
        k.encode(): v for k, v in {"task": found.task.SerializeToString(), **texts, **grades}.items()
    }


def letter(number: int, letter_id: str):
    group_id, _ = stored(number)
    return dead_letter({"id": letter_id, "group": group_id, "reason": "grader_failed", "detail": "boom"})


def test_a_group_is_found_again_with_its_verdicts_and_its_letter(tmp_path) -> None:
    write_group_archive(tmp_path, [stored(1), stored(2, "failed", reason="grader_failed", letter="5-0")])
    write_dead_letters(tmp_path, [letter(2, "5-0")])
    trained = read_archived_group(tmp_path, "g0000000001")
    assert [response.verdict.correct for response in trained.responses] == [True, False]
    assert [(one.what, one.at) for one in trained.happenings] == [("issued", "1970-01-01T00:00:01.000+00:00")]
    assert read_archived_group(tmp_path, "g0000000002").failure.detail == "boom"
    assert read_archived_group(tmp_path, "g0000000003") is None


def test_a_later_end_replaces_groups_it_knows_and_keeps_the_others(tmp_path) -> None:
    write_group_archive(tmp_path, [stored(1, "issued"), stored(2)])
    write_group_archive(tmp_path, [stored(1), stored(3)])
    assert {read_archived_group(tmp_path, f"g{number:010d}").state for number in (1, 2, 3)} == {"trained"}
    write_dead_letters(tmp_path, [letter(1, "5-0")])
    write_dead_letters(tmp_path, [letter(1, "5-0"), letter(2, "7-0")])
    assert [one.id for one in read_dead_letters(tmp_path)] == ["5-0", "7-0"]


def test_the_newest_groups_stay_where_there_are_too_many(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(group_archive, "_MOST", 2)
    write_group_archive(tmp_path, [stored(number) for number in (3, 1, 2)])
    assert [read_archived_group(tmp_path, f"g{number:010d}") is not None for number in (1, 2, 3)] == [False, True, True]


def test_a_damaged_file_is_told_and_then_replaced(tmp_path) -> None:
    write_group_archive(tmp_path, [stored(number) for number in range(9)])
    path = RunFolder(tmp_path).groups
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"groups\.pb\.gz is damaged"):
        read_archived_group(tmp_path, "g0000000001")
    write_group_archive(tmp_path, [stored(1)])
    assert read_archived_group(tmp_path, "g0000000001") is not None


def test_a_run_that_is_put_back_forgets_the_groups_that_come_again(tmp_path) -> None:
    """Else one of them would be told as it was before, once its new record has left Redis."""
    write_group_archive(tmp_path, [stored(number) for number in (1, 2, 3, 4)])
    frontier = Frontier("g0000000003 0 3", "", "", "", {}, {"g0000000002": "0 2"}, {}, 0, {})
    rewind_group_archive(tmp_path, frontier)
    known = [read_archived_group(tmp_path, f"g{number:010d}") is not None for number in (1, 2, 3, 4)]
    assert known == [True, False, True, False]
    rewind_group_archive(tmp_path, None)
    assert read_archived_group(tmp_path, "g0000000001") is None


def test_a_run_that_kept_nothing_knows_nothing(tmp_path) -> None:
    assert read_archived_group(tmp_path, "g0000000001") is None
    assert read_dead_letters(tmp_path) == []
    write_dead_letters(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
