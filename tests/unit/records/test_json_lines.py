"""Files of JSON lines, whatever was cut off of them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.host.files import append_line
from dapo.records import json_lines
from dapo.records.json_lines import keep_json_lines, lines_backwards, read_json_lines

ROWS = [{"step": step, "text": "ab" * step} for step in range(3)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize("length", range(len(TEXT) + 1))
def test_what_was_cut_off_anywhere_can_be_gone_on_with(tmp_path: Path, length: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(TEXT[:length])
    kept = keep_json_lines(path)
    assert kept == ROWS[: len(kept)]
    assert len(kept) >= TEXT[:length].count("\n")
    append_line(path, b'{"step": 9}\n')
    assert read_json_lines(path) == [*kept, {"step": 9}]


def test_only_what_is_wanted_stays_and_a_whole_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert keep_json_lines(path) == []
    path.write_text(TEXT)
    before = path.stat().st_ino
    assert keep_json_lines(path) == ROWS
    assert path.stat().st_ino == before
    assert keep_json_lines(path, lambda row: row["step"] != 1) == [ROWS[0], ROWS[2]]
    assert read_json_lines(path) == [ROWS[0], ROWS[2]]


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory):
    return tmp_path_factory.mktemp("lines") / "rows.jsonl"


@given(data=st.binary(max_size=400).map(lambda data: data.replace(b"\x00", b"\n")), block=st.integers(1, 50))
def test_lines_come_from_the_end_whatever_the_blocks_are(rows_path, data, block):
    rows_path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_BLOCK", block)
        found = list(lines_backwards(rows_path))
        whole = data.split(b"\n")[:-1]
        assert [line for _, line in found] == whole[::-1]
        for at, line in found:
            assert data[at : at + len(line) + 1] == line + b"\n"
            assert list(lines_backwards(rows_path, at)) == [one for one in found if one[0] < at]
