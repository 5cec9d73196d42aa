"""Pacing: the claims of docs/pacing.md, under any order of events."""

import itertools
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dapo.algo.dynamic_sampling import _LOWEST_UPPER_BOUND, KeepRate
from dapo.algo.pacing import Cut, Issue, Pacing


class PacedRun(RuleBasedStateMachine):
    """A run whose groups settle, and whose learner trains and publishes, whenever it pleases."""

    can_drop = True

    @initialize(size=st.integers(1, 4), staleness=st.integers(0, 6), steps=st.integers(1, 7))
    def start(self, size: int, staleness: int, steps: int) -> None:
        self.size, self.staleness, self.steps = size, staleness, steps
        self.pacing = Pacing(
            prompts_per_step=size, max_staleness=staleness, steps=steps, keep_rate=KeepRate(window=24, prior=4)
        )
        self.version_of: dict[str, int] = {}
        self.in_flight: list[str] = []
        self.ready: list[str] = []
        self.cuts: list[Cut] = []
        self.untold: set[str] = set()
        self.trained = 0
        self.history: list[bool] = []

    @invariant()
    def a_successor_would_decide_alike(self) -> None:
        """Of what the bus knows: the groups, the numbers of batches and the history of kept and dropped ones."""
        if not hasattr(self, "pacing"):
            return
        keep_rate = KeepRate(window=24, prior=4)
        for kept in self.history[-24:]:
            keep_rate.observe(kept)
        successor = Pacing(
            prompts_per_step=self.size, max_staleness=self.staleness, steps=self.steps, keep_rate=keep_rate
        )
        issues = {one: Issue(version, int(one[1:])) for one, version in self.version_of.items()}
        passed = self.untold
        successor.take_up(
            cut=len(self.cuts),
            trained=self.trained,
            version=self.pacing.version,
            in_flight={one: issues[one] for one in sorted(self.in_flight)},
            ready={one: issues[one] for one in sorted(self.ready)},
            passed={one: issues[one] for one in sorted(passed)},
        )
        keep_rate.observed = self.pacing._keep_rate.observed
        assert vars(keep_rate) == vars(self.pacing._keep_rate)
        mine, others = dict(vars(self.pacing)), dict(vars(successor))
        assert mine.pop("_keep_rate") is not others.pop("_keep_rate")
        assert mine == others
        assert successor.admissible() == self.pacing.admissible()

    def issue(self, count: int) -> None:
        for _ in range(count):
            group_id = f"g{len(self.version_of):010d}"
            self.pacing.issued(group_id, len(self.version_of))
            self.version_of[group_id] = self.pacing.version
            self.in_flight.append(group_id)

    def settle(self, position: int, kept: bool) -> None:
        group_id = self.in_flight.pop(position % len(self.in_flight))
        self.history.append(kept)
        if kept:
            self.pacing.kept(group_id)
            self.ready.append(group_id)
        else:
            self.pacing.dropped(group_id)
            self.untold.add(group_id)

    def take_cut(self) -> bool:
        cut = self.pacing.cut()
        if cut is None:
            return False
        assert cut.batch == len(self.cuts)
        assert len(cut.groups) == self.size
        for group_id in cut.groups:
            assert 0 <= cut.batch - self.version_of[group_id] <= self.staleness, "too stale"
        assert cut.groups == sorted(self.ready)[: self.size], "not the oldest first"
        waiting = set(self.ready) - set(cut.groups)
        last = cut.batch + 1 == self.steps
        expired = {one for one in waiting if last or self.version_of[one] + self.staleness <= cut.batch}
        assert cut.surplus == sorted(expired), "surplus is what no later batch may use, and nothing else"
        passed = {one for one in self.untold if one < cut.groups[-1]}
        assert cut.passed == sorted(passed), "told by the batch that passed them, once"
        self.untold = (self.untold - passed) | expired
        self.ready = sorted(waiting - expired)
        self.cuts.append(cut)
        return True

    @rule(most=st.integers(0, 200))
    def admit(self, most: int) -> None:
        self.issue(min(self.pacing.admissible(), most))

    @precondition(lambda self: self.in_flight)
    @rule(newest_first=st.booleans(), settled=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1))
    def finish_groups(self, newest_first: bool, settled: list[tuple[int, bool]]) -> None:
        for position, kept in settled[: len(self.in_flight)]:
            self.settle(-1 - position if newest_first else position, kept or not self.can_drop)

    @rule()
    def cut(self) -> None:
        while self.take_cut():
            pass

    @rule(publish=st.booleans())
    def advance(self, publish: bool) -> None:
        self.take_cut()
        if self.trained < len(self.cuts):
            self.pacing.trained(self.trained)
            self.trained += 1
        if publish:
            self.pacing.published(self.trained)

    @invariant()
    def counts_agree(self) -> None:
        assert self.pacing.in_flight == len(self.in_flight)
        assert self.pacing.ready == len(self.ready)
        assert self.pacing.cut_untrained == len(self.cuts) - self.trained
        assert self.pacing.all_cut == (len(self.cuts) == self.steps)
        assert self.pacing.finished == (self.trained == self.steps)
        assert self.pacing.admissible() == 0 or not self.pacing.all_cut
        frugal = self.pacing.admissible(for_next_alone=True)
        assert frugal <= self.pacing.admissible()
        assert frugal == 0 or self.pacing.ready + self.pacing.in_flight < self.size / _LOWEST_UPPER_BOUND

    @invariant()
    def in_flight_is_bounded(self) -> None:
        # A bound that rises again leaves what it admitted before, so the least bound counts.
        assert len(self.in_flight) <= (self.staleness + 1) * self.size / _LOWEST_UPPER_BOUND

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        quiet = not self.in_flight and self.pacing.version == len(self.cuts)
        if quiet and not self.pacing.finished and self.pacing.ready < self.size:
            assert self.pacing.admissible(for_next_alone=True) > 0, "nor where nothing is issued ahead"
        if quiet and not self.pacing.finished:
            assert self.pacing.admissible() > 0 or self.take_cut()

    def teardown(self) -> None:
        """From wherever the rules left it, the run comes to its end."""
        if not hasattr(self, "pacing"):
            return
        drops = 40 if self.can_drop else 0
        while not self.pacing.finished:
            self.issue(self.pacing.admissible())
            while self.in_flight:
                self.settle(len(self.in_flight) * 7 // 11, kept=drops <= 0)
                drops -= 1
            self.cut()
            moves = self.pacing.version < len(self.cuts) or self.pacing.admissible()
            assert moves, "deadlock"
            while self.trained < len(self.cuts):
                self.advance(publish=False)
            self.pacing.published(self.trained)
        used = [group_id for cut in self.cuts for group_id in cut.groups]
        assert len(set(used)) == len(used) == self.steps * self.size


class AllKept(PacedRun):
    """Keep rate 1: exactly the run's need is issued, and every group is trained on."""

    can_drop = False

    @invariant()
    def nothing_is_issued_beyond_need(self) -> None:
        assert len(self.version_of) + self.pacing.admissible() <= self.steps * self.size

    @invariant()
    def nothing_is_surplus(self) -> None:
        assert not any(cut.surplus for cut in self.cuts)


TestPacedRun = PacedRun.TestCase
TestAllKept = AllKept.TestCase
TestPacedRun.settings = TestAllKept.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("keep_rate", [1.0, 0.8, 0.4])
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_long_runs_with_slow_groups_keep_the_claims(keep_rate: float, staleness: int) -> None:
    """What hypothesis's short runs reach seldom: a pipe that is always full, over many versions."""
    for seed in range(25):
        rng = random.Random(seed)
        run = AllKept() if keep_rate == 1.0 else PacedRun()
        run.start(rng.randint(1, 4), staleness, 30)
        while not run.pacing.finished:
            run.admit(200)
            for _ in range(min(len(run.in_flight), rng.randint(0, 2 * run.size))):
                newest = len(run.in_flight) - 1
                run.settle(min(newest, int(rng.expovariate(0.3))), rng.random() < keep_rate)
                run.cut()
            if rng.random() < 0.3:
                run.advance(rng.random() < 0.7)
            if keep_rate == 1.0:
                run.nothing_is_surplus()
                run.nothing_is_issued_beyond_need()
            run.counts_agree()
            run.nobody_waits_for_nothing()


SERIALS = itertools.count()


def make_pacing(size: int, staleness: int, steps: int = 10) -> Pacing:
    return Pacing(prompts_per_step=size, max_staleness=staleness, steps=steps, keep_rate=KeepRate())


def issue(pacing: Pacing, *group_ids: str) -> None:
    for group_id in group_ids:
        pacing.issued(group_id, next(SERIALS))


def test_admission_fills_the_versions_that_may_be_trained_on() -> None:
    assert make_pacing(4, 0).admissible() == 4
    assert make_pacing(4, 2).admissible() == 12
    assert make_pacing(4, 100, steps=3).admissible() == 12, "no more than the run needs"


def test_synchronous_admission_waits_for_publication_not_for_training() -> None:
    pacing = make_pacing(1, 0)
    issue(pacing, "g0")
    pacing.kept("g0")
    assert pacing.cut() == Cut(0, ["g0"], [], [])
    assert pacing.admissible() == 0
    pacing.trained(0)
    assert pacing.admissible() == 0, "a prompt issued now would still carry version 0"
    pacing.published(1)
    assert pacing.admissible() == 1


def test_pitfall_06_surplus_kept_groups_wait_for_the_next_batch() -> None:
    pacing = make_pacing(1, 1)
    issue(pacing, "g0", "g1")
    pacing.kept("g1")
    pacing.kept("g0")
    assert pacing.cut() == Cut(0, ["g0"], [], [])
    assert pacing.ready == 1
    assert pacing.cut() == Cut(1, ["g1"], [], [])


def test_pitfall_07_a_keep_rate_of_zero_keeps_refilling_and_stays_bounded() -> None:
    pacing = make_pacing(4, 1)
    waiting: list[str] = []
    issued = most = 0
    for _ in range(3000):
        for _ in range(pacing.admissible()):
            waiting.append(f"g{issued}")
            pacing.issued(waiting[-1], issued)
            issued += 1
        most = max(most, pacing.in_flight)
        pacing.dropped(waiting.pop(0))
    assert pacing.cut() is None
    assert most == 8 / _LOWEST_UPPER_BOUND
    pacing.kept(waiting.pop(0))
    assert pacing.ready == 1, "and one informative group is taken up as ever"


def test_a_batch_waits_for_the_groups_whose_deadline_it_is() -> None:
    pacing = make_pacing(1, 0)
    issue(pacing, "g0")
    pacing.dropped("g0")
    assert pacing.admissible() == 1
    issue(pacing, "g1", "g2")
    pacing.kept("g2")
    assert pacing.cut() is None
    pacing.kept("g1")
    assert pacing.cut() == Cut(0, ["g1"], ["g2"], ["g0"])


def test_a_fast_newcomer_does_not_take_the_place_of_a_slow_group() -> None:
    pacing = make_pacing(1, 2)
    issue(pacing, "slow0", "fast1", "slow2")
    pacing.kept("fast1")
    assert pacing.cut() == Cut(0, ["fast1"], [], [])
    pacing.trained(0)
    pacing.published(1)
    issue(pacing, "fast3")
    pacing.kept("fast3")
    assert pacing.cut() is None, "batch 2 has one place, and two slow groups need one by then"
    pacing.kept("slow2")
    assert pacing.cut() == Cut(1, ["slow2"], [], [])
    pacing.kept("slow0")
    assert pacing.cut() == Cut(2, ["slow0"], [], [])
    assert pacing.ready == 1


def test_of_two_batches_cut_together_each_has_passed_over_groups_of_its_own() -> None:
    pacing = make_pacing(1, 3)
    issue(pacing, "g0", "g1", "g2", "g3")
    for group_id in ("g2", "g0"):
        pacing.dropped(group_id)
    for group_id in ("g3", "g1"):
        pacing.kept(group_id)
    assert pacing.cut() == Cut(0, ["g1"], [], ["g0"])
    assert pacing.cut() == Cut(1, ["g3"], [], ["g2"])


def test_a_failed_group_is_replaced() -> None:
    pacing = make_pacing(2, 0)
    issue(pacing, "g0", "g1")
    assert pacing.admissible() == 0
    pacing.dropped("g0")
    assert pacing.admissible() == 1


def test_publication_implies_training_and_is_heard_twice_without_harm() -> None:
    pacing = make_pacing(1, 1)
    issue(pacing, "g0")
    pacing.kept("g0")
    pacing.cut()
    pacing.published(1)
    pacing.published(1)
    pacing.trained(0)
    assert (pacing.version, pacing.cut_untrained) == (1, 0)


def test_impossible_events_are_refused() -> None:
    pacing = make_pacing(1, 1)
    issue(pacing, "g0")
    with pytest.raises(ValueError, match="g0 was issued before"):
        pacing.issued("g0", 0)
    with pytest.raises(ValueError, match="g7 is not in flight"):
        pacing.kept("g7")
    with pytest.raises(ValueError, match="batch 0 cannot be trained"):
        pacing.trained(0)
    with pytest.raises(ValueError, match="version 1 cannot follow version 0"):
        pacing.published(1)
