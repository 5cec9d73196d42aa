"""Tables of a terminal: no number is cut, however narrow it is."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from dapo.terminal import Column, WideTable

NUMBERS = st.integers(-(10**12), 10**12).map("{:,}".format)


def printed(table: WideTable, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


@given(st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=4), st.integers(20, 130))
def test_every_number_is_shown_whole_in_its_own_line(rows: list[list[str]], width: int) -> None:
    columns = [Column("model", text=True), *(Column(f"measure {at}") for at in range(4))]
    cells = [[Text(name), *map(Text, row)] for name, row in zip("abcd", rows, strict=False)]
    lines = printed(WideTable(columns, cells, keys=1), width).splitlines()
    assert all(len(line) <= width for line in lines)
    for name, row in zip("abcd", rows, strict=False):
        assert [word for line in lines if line.startswith(f"{name} ") for word in line.split()[1:]] == row


def test_columns_stand_beside_each_other_where_there_is_room() -> None:
    columns = [Column("model", text=True), Column("one"), Column("two")]
    rows = [[Text("a long name of a model"), Text("1.5"), Text("2.5")], [Text("b"), Text("3"), Text("4")]]
    assert printed(WideTable(columns, rows, keys=1), 60).count("model") == 2
    assert len(printed(WideTable(columns, rows, keys=1), 60).splitlines()) == 3


@pytest.mark.parametrize("width", [12, 14])
def test_text_gives_way_before_numbers_do(width: int) -> None:
    rows = [[Text("averylongname"), Text("1,234,567")]]
    text = printed(WideTable([Column("model", text=True), Column("one")], rows, keys=1), width)
    assert "1,234,567" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [30, 44, 80])
def test_an_id_is_never_wrapped_and_other_texts_give_way(width: int) -> None:
    run_id = "struck-20261126-201100-d50c"
    columns = [Column("run", text=True, whole=True), Column("labels", text=True), Column("why", text=True)]
    rows = [[Text(run_id), Text("team=math owner=somebody"), Text("a reason of many words " * 4)]]
    text = printed(WideTable(columns, rows, keys=1), width)
    assert run_id in text
    assert all(len(line) <= width for line in text.splitlines())
