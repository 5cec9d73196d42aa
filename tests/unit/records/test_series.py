"""Curves as columns: what is new, what is thinned out, what was not measured."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.measured.series import join_series, newest_rows, read_series, thin


@pytest.fixture
def run_dir(tmp_path):
    rows = [{"step": step, "entropy": step / 10, "accuracy_mean": None if step == 2 else 0.5} for step in range(1, 8)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "entr')
    return tmp_path


def test_curves_are_columns_by_step(run_dir):
    found = read_series(run_dir, 0, [], 100)
    assert found.step == [1, 2, 3, 4, 5, 6, 7]
    assert found.columns["entropy"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert found.columns["accuracy_mean"][1] is None
    assert found.units == {"entropy": "nats", "accuracy_mean": "share"}
    assert found.last_step == 7


def test_only_what_is_new_is_read_and_only_what_is_named(run_dir):
    found = read_series(run_dir, 5, ["entropy"], 100)
    assert (found.step, list(found.columns), found.last_step) == ([6, 7], ["entropy"], 7)
    nothing = read_series(run_dir, 7, [], 100)
    assert (nothing.step, nothing.columns, nothing.last_step) == ([], {}, 7)


def test_of_a_part_of_the_steps_it_is_said_which_is_the_newest(run_dir):
    found = read_series(run_dir, 2, ["entropy"], 100, until_step=5)
    assert (found.step, found.last_step) == ([3, 4, 5], 7)
    assert read_series(run_dir, 7, [], 100, until_step=9).step == []
    parts = [read_series(run_dir, since, [], 3, until_step=since + 3) for since in (0, 3, 6, 9)]
    assert join_series(parts) == read_series(run_dir, 0, [], None)


def test_parts_that_measured_other_things_are_joined_with_nothing_where_it_was_not_measured(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "entropy": 2.0}\n{"step": 2, "accuracy_mean": 0.5}\n')
    joined = join_series([read_series(tmp_path, since, [], 1, until_step=since + 1) for since in (0, 1)])
    assert joined == read_series(tmp_path, 0, [], None)
    assert joined.columns == {"entropy": [2.0, None], "accuracy_mean": [None, 0.5]}


def test_a_run_without_a_step_has_empty_curves(tmp_path):
    assert read_series(tmp_path, 0, [], 100).step == []
    assert newest_rows(tmp_path, 3) == []


def test_the_newest_rows_come_in_order(run_dir):
    assert [row["step"] for row in newest_rows(run_dir, 3)] == [5, 6, 7]


@given(st.integers(0, 500), st.integers(1, 600))
def test_thinned_curves_keep_their_end_and_are_no_longer_than_asked(count, points):
    rows = [{"step": step} for step in range(1, count + 1)]
    found = thin(rows, points)
    assert len(found) <= points
    assert found[-1:] == rows[-1:]
    assert len({b["step"] - a["step"] for a, b in pairwise(found)}) <= 1
    assert (len(found) == count) == (count <= points)
