"""Pages of runs."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.identity import name_of
from dapo.spec.wording import SHOWN_CHARACTERS, shown
from dapo.v1 import run_pb2 as pb
from services.orchestrator.catalogue.listing import Wanted, label_filter
from services.orchestrator.fleet.errors import BadField

STATES = [pb.RUN_STATE_RUNNING, pb.RUN_STATE_FAILED]


@st.composite
def some_runs(draw: st.DrawFn) -> list[pb.Run]:
    """With times that are alike, and ids that differ."""
    count = draw(st.integers(0, 12))
    return [
        pb.Run(
            id=f"{draw(st.sampled_from(['a', 'a-b']))}-20260102-030405-{number:04x}",
            created_at=f"2026-01-0{draw(st.integers(1, 3))}",
            state=draw(st.sampled_from(STATES)),
        )
        for number in range(count)
    ]


@given(
    some_runs(), st.integers(1, 5), st.booleans(), st.sets(st.sampled_from(STATES)), st.sampled_from(["", "a", "a-b"])
)
def test_the_pages_hold_each_wanted_run_once_and_in_order(
    runs: list[pb.Run], limit: int, newest_first: bool, states: set[int], name: str
) -> None:
    wanted, cursor, seen = Wanted(states, name, newest_first), "", []
    while True:
        page = wanted.page(runs, limit, cursor)
        assert len(page.runs) <= limit
        seen += page.runs
        if not (cursor := page.next):
            break
        assert len(page.runs) == limit
    expected = [one for one in runs if (not states or one.state in states) and (not name or name_of(one.id) == name)]
    expected.sort(key=lambda one: (one.created_at, one.id), reverse=newest_first)
    assert seen == expected


@given(
    st.lists(st.dictionaries(st.sampled_from("ab"), st.sampled_from(["", "1", "x=y"])), max_size=6),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([None, "", "1", "x=y"])), max_size=3),
)
def test_runs_with_all_wanted_labels_are_listed(
    labels: list[dict[str, str]], wanted: list[tuple[str, str | None]]
) -> None:
    texts = [key if value is None else f"{key}={value}" for key, value in wanted]
    assert label_filter(texts) == wanted
    runs = [pb.Run(id=str(number), labels=one) for number, one in enumerate(labels)]
    found = Wanted(labels=label_filter(texts)).page(runs, 10, "").runs
    expected = [
        run for run in runs if all(key in run.labels and value in (None, run.labels[key]) for key, value in wanted)
    ]
    assert found == expected


@given(some_runs(), st.integers(1, 3))
def test_a_run_that_goes_meanwhile_takes_no_other_along(runs: list[pb.Run], limit: int) -> None:
    first = Wanted().page(runs, limit, "")
    if first.next:
        left = [run for run in runs if run.id != first.runs[-1].id]
        rest = Wanted().page(left, len(runs) or 1, first.next)
        assert len(first.runs) + len(rest.runs) == len(runs)


@given(st.text(max_size=30).filter(bool))
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(BadField, match="cursor") as refusal:
        Wanted().page([], 1, cursor)
    assert refusal.value.given == shown(cursor)


@pytest.mark.parametrize("text", ["[" * 30_000, '{"a":' * 30_000, "[1", "[1,2,3]", "7", "[" + "9" * 5000 + ",1]"])
def test_what_is_no_cursor_inside_is_refused(text: str) -> None:
    with pytest.raises(BadField, match="cursor") as refusal:
        Wanted().page([], 1, base64.urlsafe_b64encode(text.encode()).decode())
    assert refusal.value.given is not None
    assert len(refusal.value.given) <= SHOWN_CHARACTERS
