"""Which checkpoints are copied to an object store, which of them count there, and which go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.checkpoints import directory_name
from dapo.records.mirror.inventory import (
    INVENTORY,
    BadInventory,
    Entry,
    age,
    due,
    lacking,
    names_in,
    parse_inventory,
    superfluous,
    write_inventory,
)

NAMES = st.builds(directory_name, st.integers(1, 30), st.integers(0, 4))
SETS = st.sets(NAMES, max_size=12)
PARTS = st.lists(st.text("abc.-_ é", min_size=1, max_size=5).filter(lambda one: one not in (".", "..")), min_size=1)
PATHS = st.builds(lambda top, parts: f"{top}/{'/'.join(parts)}", st.sampled_from(["checkpoint", "run"]), PARTS)
ENTRIES = st.builds(Entry, st.integers(0, 2**60), st.text("0123456789abcdef", min_size=64, max_size=64))
INVENTORIES = st.dictionaries(PATHS, ENTRIES, max_size=6)


@given(INVENTORIES)
def test_an_inventory_is_read_as_it_was_written(inventory: dict[str, Entry]) -> None:
    assert parse_inventory(write_inventory(inventory)) == inventory


@given(st.binary(max_size=60))
def test_what_is_no_inventory_is_refused(text: bytes) -> None:
    with pytest.raises(BadInventory):
        parse_inventory(text)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "checkpoint/../../x", "run/./x", "checkpoint//x", "x", "checkpoint/", "checkpoint/a\0b"],
)
def test_no_path_leads_out_of_the_folder(path: str) -> None:
    with pytest.raises(BadInventory, match="path of a checkpoint"):
        parse_inventory(write_inventory({path: Entry(1, "0" * 64)}))


def test_another_format_is_refused() -> None:
    with pytest.raises(BadInventory, match="format 2, this release reads 1"):
        parse_inventory(b'{"format": 2, "files": {}}')


@given(INVENTORIES, st.data())
def test_whole_is_what_lacks_nothing(inventory: dict[str, Entry], data: st.DataObject) -> None:
    sizes = {f"step-000002.e1/{path}": entry.size for path, entry in inventory.items()}
    assert lacking("step-000002.e1", inventory, {**sizes, "step-000004.e1/run/x": 3}) == []
    if inventory:
        path = data.draw(st.sampled_from(sorted(inventory)))
        assert lacking("step-000002.e1", inventory, {**sizes, f"step-000002.e1/{path}": inventory[path].size + 1}) == [
            path
        ]
        del sizes[f"step-000002.e1/{path}"]
        assert lacking("step-000002.e1", inventory, sizes) == [path]


@given(SETS)
def test_names_are_found_among_objects_the_newest_first(names: set[str]) -> None:
    objects = [f"{name}/{path}" for name in names for path in (INVENTORY, "checkpoint/x")]
    found = names_in([*objects, "notes.txt", "step-x/y", "step-000009.e9"])
    assert set(found) == names
    assert [age(name) for name in found] == sorted(map(age, names), reverse=True)


def test_what_was_trained_again_is_newer_than_what_was_given_up() -> None:
    assert names_in(["step-000030.e3/a", "step-000010.e4/a"]) == ["step-000010.e4", "step-000030.e3"]


@given(st.lists(NAMES), st.integers(0, 31))
def test_due_is_the_first_one_that_the_records_have_come_to(marked: list[str], recorded: int) -> None:
    found = due(marked, recorded)
    steps = [int(name[5:11]) for name in marked]
    if found is None:
        assert all(step > recorded for step in steps)
    else:
        at = marked.index(found)
        assert steps[at] <= recorded
        assert all(step > recorded for step in steps[:at])


@given(SETS, SETS, NAMES, st.integers(1, 5))
def test_older_ones_go_and_so_many_stay(names: set[str], others: set[str], latest: str, keep: int) -> None:
    whole = {*others, latest}
    there = {*names, *whole}
    gone = superfluous(there, whole, latest, keep)
    left = there - set(gone)
    assert all(age(name) < age(latest) for name in gone)
    older = [name for name in left if age(name) < age(latest)]
    assert set(older) <= whole  # no torso
    assert len(older) == min(keep - 1, sum(age(name) < age(latest) for name in whole))
    assert all(age(name) > age(lost) for name in older for lost in set(gone) & whole)  # the newest ones stay
    assert superfluous(left, whole & left, latest, keep) == []
