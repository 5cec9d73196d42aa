"""Which runs that wait start, and what the others are told: the rule by itself, and on a machine as time goes on."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.queue.rule import PATIENCE_S, Amounts, Inventory, Verdict, Waiting, judge

amounts = st.builds(Amounts, st.integers(0, 4), st.integers(0, 8), st.integers(0, 8))
limits = st.none() | st.integers(1, 8)
inventories = st.builds(Inventory, st.integers(0, 4), limits, limits, limits)
queues = st.lists(
    st.builds(
        Waiting,
        st.uuids().map(str),
        amounts,
        st.integers(-2, 2),
        st.floats(0, 2 * PATIENCE_S),
        st.booleans(),
        st.sampled_from(["", "", "", "its data is gone"]),
    ),
    max_size=8,
)
NOW = 2 * PATIENCE_S


def waits(name: str, needs: Amounts, since: float = NOW, priority: int = 0) -> Waiting:
    return Waiting(name, needs, priority, since)


def said(verdicts: list[Verdict]) -> dict[str, str]:
    return {one.run_id: "starts" if one.starts else one.reason for one in verdicts}


@given(queues, inventories, amounts, st.integers(0, 4))
def test_never_more_than_there_is_but_for_a_run_that_is_alone(
    waiting: list[Waiting], has: Inventory, taken: Amounts, runs: int
) -> None:
    by_id = {one.run_id: one for one in waiting}
    for verdict in judge(waiting, has, taken, runs, NOW):
        one = by_id[verdict.run_id]
        assert verdict.starts or verdict.reason, "it waits in silence"
        if not verdict.starts:
            continue
        assert not one.obstacle
        alone = runs == 0
        taken, runs = taken + one.needs, runs + 1
        assert not one.needs.gpus or taken.gpus <= has.gpus
        assert alone or has.runs is None or runs <= has.runs
        assert alone or not one.needs.cores or has.cores is None or taken.cores <= has.cores
        assert alone or not one.needs.memory or has.memory is None or taken.memory <= has.memory


@given(queues, inventories, amounts, st.integers(0, 4))
def test_of_runs_with_the_same_needs_none_passes_one_of_higher_priority(
    waiting: list[Waiting], has: Inventory, taken: Amounts, runs: int
) -> None:
    by_id = {one.run_id: one for one in waiting}
    verdicts = judge(waiting, has, taken, runs, NOW)
    assert [one.position for one in verdicts] == list(range(1, len(waiting) + 1))
    for at, verdict in enumerate(verdicts):
        for after in verdicts[at + 1 :]:
            first, second = by_id[verdict.run_id], by_id[after.run_id]
            assert first.under_way or not second.under_way
            if first.under_way == second.under_way:
                assert (-first.priority, first.since) <= (-second.priority, second.since)
            if first.needs == second.needs and not first.obstacle:
                assert verdict.starts or not after.starts


@given(
    amounts,
    inventories.map(lambda has: dataclasses.replace(has, runs=None)),
    st.lists(st.tuples(amounts, st.integers(1, 900)), min_size=1, max_size=30),
)
def test_no_run_waits_for_ever_however_many_smaller_ones_come(
    needs: Amounts, has: Inventory, others: list[tuple[Amounts, int]]
) -> None:
    """One more comes whenever one can start, each is over after its time, and none of them is more urgent. The run may
    wait for GPUs, and then for what those have taken that passed it as they need none."""
    if needs.gpus > has.gpus:
        return
    big, now, endless = waits("big", needs, 0.0), 0.0, iter(others * 200)
    going: list[tuple[Amounts, float]] = [(Amounts(has.gpus, has.cores or 0, has.memory or 0), 60.0)]
    number, waiting = 0, [big]
    longest = max(seconds for _, seconds in others)
    while now <= 60.0 + PATIENCE_S + 2 * (longest + 30.0):
        going = [one for one in going if one[1] > now]
        if len(waiting) == 1:
            more, seconds = next(endless)
            waiting.append(waits(str(number := number + 1), more, now))
        taken = Amounts()
        for amount, _ in going:
            taken = taken + amount
        started = {one.run_id for one in judge(waiting, has, taken, len(going), now) if one.starts}
        if "big" in started:
            return
        going += [(one.needs, now + seconds) for one in waiting if one.run_id in started]
        waiting = [one for one in waiting if one.run_id not in started]
        now += 30.0
    raise AssertionError("it was passed again and again")


def test_what_does_not_fit_says_what_is_missing() -> None:
    has = Inventory(gpus=4, cores=8, memory=8 << 30, runs=3)
    queue = [
        waits("two", Amounts(gpus=2), NOW - 3),
        waits("many", Amounts(cores=9, memory=9 << 30), NOW - 2),
        waits("huge", Amounts(gpus=5), NOW - 1),
        waits("small", Amounts(gpus=1, cores=1), NOW),
        waits("more", Amounts(), NOW + 1),
    ]
    assert said(judge(queue, has, Amounts(gpus=3, cores=2, memory=1 << 30), 2, NOW)) == {
        "two": "needs 2 GPUs, 1 free of 4",
        "many": "needs 9 cores, 6 free of 8; needs 9.0 GiB of memory, 7.0 GiB free of 8.0 GiB",
        "huge": "needs 5 GPUs, and this machine has 4",
        "small": "starts",
        "more": "3 of 3 runs under way (--max-runs)",
    }


def test_a_run_that_has_waited_for_long_is_passed_no_more() -> None:
    has = Inventory(gpus=4)
    queue = [waits("big", Amounts(gpus=4), NOW - PATIENCE_S + 1), waits("small", Amounts(gpus=1))]
    assert said(judge(queue, has, Amounts(gpus=2), 1, NOW))["small"] == "starts"
    later = said(judge(queue, has, Amounts(gpus=2), 1, NOW + 2))
    assert later == {
        "big": "needs 4 GPUs, 2 free of 4",
        "small": "run big comes first: it was under way, or waits for 10 minutes",
    }
    # One that was under way is passed by none from the first moment on.
    back = [waits("big", Amounts(gpus=4))._replace(under_way=True), waits("small", Amounts(gpus=1))]
    assert said(judge(back, has, Amounts(gpus=2), 1, NOW))["small"] == later["small"]
    # One that is more urgent waits for nobody behind it, and what can never start is waited for by none.
    urgent = [*queue, waits("urgent", Amounts(gpus=1), NOW, 1)]
    assert said(judge(urgent, has, Amounts(gpus=2), 1, NOW + 2))["urgent"] == "starts"
    never = [waits("never", Amounts(gpus=5), 0.0), waits("small", Amounts(gpus=1))]
    assert said(judge(never, has, Amounts(gpus=2), 1, NOW))["small"] == "starts"


def test_one_that_lacks_gpus_alone_is_passed_by_those_that_need_none_and_by_no_other() -> None:
    has, long_ago = Inventory(gpus=2, cores=8, memory=8 << 30), NOW - PATIENCE_S
    big = waits("big", Amounts(gpus=2, cores=2), long_ago)
    queue = [big, waits("gpu", Amounts(gpus=1, cores=1)), waits("cpu", Amounts(cores=4, memory=1 << 30))]
    first = {"big": "needs 2 GPUs, 1 free of 2", "cpu": "starts"}
    blocked = "run big comes first: it was under way, or waits for 10 minutes"
    # Another process of the machine has a GPU, or a run has.
    for runs in (0, 1):
        assert said(judge(queue, has, Amounts(gpus=1), runs, NOW)) == {**first, "gpu": blocked}
    back = [big._replace(since=NOW, under_way=True), *queue[1:]]
    assert said(judge(back, has, Amounts(gpus=1), 1, NOW)) == {**first, "gpu": blocked}
    # As soon as it lacks something that all need, none passes.
    later = said(judge(queue, has, Amounts(cores=7), 1, NOW))
    assert (later["big"], later["gpu"], later["cpu"]) == (
        "needs 2 cores, 1 free of 8",
        blocked,
        "needs 4 cores, 1 free of 8",
    )
    # What it would be granted if it were alone it does not lack while nothing goes on.
    huge = [waits("huge", Amounts(gpus=2, memory=9 << 30), long_ago), queue[2]]
    assert said(judge(huge, has, Amounts(gpus=1), 0, NOW))["cpu"] == "starts"
    assert said(judge(huge, has, Amounts(gpus=1), 1, NOW))["cpu"] == blocked.replace("big", "huge")


def test_a_run_that_has_the_machine_to_itself_starts_and_is_warned() -> None:
    has = Inventory(gpus=1, cores=2, memory=1 << 30)
    needs = Amounts(cores=6, memory=1 << 20)
    first, second = judge([waits("first", needs, 1.0), waits("second", needs, 2.0)], has, Amounts(), 0, 3.0)
    assert (first.starts, first.reason) == (True, "needs 6 cores, 2 free of 2")
    assert (second.starts, second.reason) == (False, "needs 6 cores, 0 free of 2")
    # GPUs are never estimates: other processes may have them.
    (third,) = judge([waits("third", Amounts(gpus=1))], has, Amounts(gpus=1), 0, NOW)
    assert (third.starts, third.reason) == (False, "needs 1 GPU, 0 free of 1")
