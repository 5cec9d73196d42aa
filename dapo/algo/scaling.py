"""How many generators a run wants, read off what its last steps measured. Pure.

W_g and W_t are the work of one step's generation and training in device-seconds. Of N devices a share f generates. Both
sides work at once, so a step of an asynchronous run takes

    T(f) = max(W_g / (f N), W_t / ((1 − f) N)),   least where both are equal: f* = W_g / (W_g + W_t).

The learner keeps its devices, so f is changed by the number of generators n alone. A step trains on R responses of L
tokens in the mean. Dynamic sampling keeps a share p of the groups, so R · L / p tokens are generated for it. A
generator that has something to do makes r = generated_tokens_per_s / (n · (1 − generator_idle)) tokens a second, and
a step keeps the learner busy for t = step_s · (1 − learner_idle) seconds. Generation takes as long as training with

    n* = R · L / (p · r · t)

generators. So a keep rate that falls from 1 to 0.3 asks for 3.3 times as many, and so do responses 3.3 times as long,
less what the learner takes longer for them.

Each step measures an n*; of a window of steps its quartiles count, so that no single odd step does, and the more they
scatter the less is changed. The number that runs is kept while it lies within

    [⌈(1 − LEARNER_SLACK) · lower quartile⌉, ⌈(1 + GENERATOR_SLACK) · upper quartile⌉],

and otherwise becomes the nearer end. A change therefore goes to where the same n* asks for no other, and one back needs
an n* that is a quarter off: (1 − LEARNER_SLACK) / (1 + GENERATOR_SLACK). After a change a whole window is measured
before the next; a change at most doubles or halves the number.

In a steady run R · L / p tokens are made in a step, and n* is n · (1 − generator_idle) / (1 − learner_idle). While the
learner hardly waits, n* is no more than that, whatever the batches to come ask for: some are made ahead.

r is what generators made at the load that they had. Where responses take their time however many generators there are
(one long response holds a step up), more generators only share the load and n* grows with n. So growth must pay: if a
number of generators made hardly more tokens a second than a smaller one for like work, the run goes back to the
smaller, and no further, until a step is a quarter more work.

Limits: a generator with one request counts as busy, so generators that share few requests between them look needed, and
a shrink comes later than it could. With max_staleness 0 generation and training take turns; at n* each takes half of
the step.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

LEARNER_SLACK = 0.1
"""Fewer generators than n* by this share are let be, and more are of no use: so long the learner waits in a step."""
GENERATOR_SLACK = 0.2
"""More of them are, by this share: they come slowly, and one too many costs less than a learner that waits."""
HISTORY = 200
"""Newest steps that are looked at for whether growth has paid."""
_MOST_AT_ONCE = 2.0
"""A change is by no more than this factor: further away, tokens a second of a generator are not what was measured."""
_PAYS = 0.25
"""Of the tokens a second that a growth promised, at least so much must have come."""
_MORE_WORK = 1.25
"""Times the tokens a step: then a growth that has not paid is tried again, and none is judged by steps before it."""

Row = Mapping[str, float | None]
"""Of metrics.jsonl."""


class Limits(NamedTuple):
    least: int = 1
    most: int | None = None
    window: int = 8
    """Steps that are measured for a change, all of them after the one before."""


class Advice(NamedTuple):
    wanted: int
    """Generators wanted."""
    balance: float | None
    """n*, its median over the window; None before one was measured."""
    reason: str
    """In words, for whoever sees the number change, or not change."""


class _Measured(NamedTuple):
    """One step."""

    step: float
    generators: int
    balance: float
    tokens: float
    """To be generated for it."""
    rate: float
    """Tokens a second of all generators."""
    keep_rate: float
    length: float
    generator_idle: float
    learner_idle: float

    @property
    def worked(self) -> float:
        """Generators that had something to do while the learner worked: n* of a steady run."""
        return self.generators * (1 - self.generator_idle) / (1 - self.learner_idle)


def best_share(generation: float, training: float) -> float:
    """f*: the share of devices for generation, from the device-seconds that both take for a step."""
    return generation / (generation + training)


def fewest_for(balance: float) -> int:
    """Generators with which the learner hardly waits, where n* is `balance`."""
    return max(1, math.ceil((1 - LEARNER_SLACK) * balance))


def advise(rows: Sequence[Row], *, responses: int, count: int, limits: Limits, since: int = 0) -> Advice:
    """What to have instead of `count` generators, or `count` itself.

    `rows`: of metrics.jsonl, oldest first, HISTORY at least; steps with a measure missing are passed over.
    `responses` are trained on in a step. `since`: the step after which the count became what it is.
    """
    measured = [one for row in rows[-HISTORY:] if (one := _measure(row, responses)) is not None]
    window = [one for one in measured if one.step > since][-limits.window :]
    if len(window) < limits.window:
        seen = f"{len(window)} of {limits.window} steps are measured"
        return Advice(count, None, f"{seen} since the last change" if since else seen)
    keeps_up = _keeps_up(window)
    balances = sorted(min(one.balance, one.worked) if keeps_up else one.balance for one in window)
    balance = median(balances)
    wanted = _nearest(count, balances)
    why = _words(window, balance)
    if wanted > count and window[-1].generators < count:
        return Advice(count, balance, f"{why}, and {window[-1].generators} of {count} work yet")
    if wanted > count and (paid := _paying(measured, count, wanted, limits.window)) != wanted:
        wanted, why = paid, f"{why}, but more than {paid} have made hardly more tokens a second"
    allowed = max(limits.least, wanted if limits.most is None else min(wanted, limits.most))
    if allowed != wanted:
        why = f"{why}, and autoscale {'allows no more' if allowed < wanted else 'keeps no fewer'} than {allowed}"
    return Advice(allowed, balance, why)


def _nearest(count: int, balances: Sequence[float]) -> int:
    """The number nearest to `count` that is in balance, or on the way there. `balances` are sorted."""
    odd = (len(balances) - 1) // 4
    fewest = fewest_for(balances[odd])
    most = max(1, math.ceil((1 + GENERATOR_SLACK) * balances[-1 - odd]))
    nearest = min(max(count, fewest), most)
    return min(max(nearest, math.ceil(count / _MOST_AT_ONCE)), math.floor(count * _MOST_AT_ONCE))


def _paying(measured: Sequence[_Measured], count: int, wanted: int, window: int) -> int:
    """At most `wanted`: fewer than any number that was tried for no more work than now, and has not paid."""
    by_count: dict[int, list[_Measured]] = {}
    for one in measured:
        by_count.setdefault(one.generators, []).append(one)
    tried = {number: steps[-window:] for number, steps in sorted(by_count.items()) if len(steps) >= window}
    now = median(one.tokens for one in measured[-window:])
    for fewer, more in zip(tried, list(tried)[1:], strict=False):
        if fewer <= count and more <= max(count, wanted) and not _paid(tried[fewer], tried[more], now):
            # One that runs is taken back; of those that do not, the ones below it are still to be tried.
            return fewer if more <= count else more - 1
    return wanted


def _paid(fewer: Sequence[_Measured], more: Sequence[_Measured], tokens: float) -> bool:
    """Whether `more` generators were worth it. They may be by now, where a step is more work, and may have been where
    both had other work: longer responses are made more slowly."""
    before, after = (median(one.tokens for one in steps) for steps in (fewer, more))
    if _keeps_up(more) or max(tokens, after) > _MORE_WORK * min(before, after):
        return True
    of_use = min(more[0].generators, median(one.balance for one in fewer)) / fewer[0].generators
    made = median(one.rate for one in more) / median(one.rate for one in fewer)
    return made - 1 >= _PAYS * (of_use - 1)


def _keeps_up(steps: Sequence[_Measured]) -> bool:
    """Whether the learner hardly waits, whatever n* is: batches may have been made ahead."""
    return median(one.learner_idle for one in steps) < LEARNER_SLACK


def _measure(row: Row, responses: int) -> _Measured | None:
    names = ("step", "generators", "generated_tokens_per_s", "generator_idle", "learner_idle", "step_s")
    found = [row.get(name) for name in (*names, "keep_rate", "response_length_mean")]
    known = [value for value in found if value is not None and math.isfinite(value)]
    if len(known) < len(found):
        return None
    step, generators, rate, generator_idle, learner_idle, step_s, keep_rate, length = known
    busy, train_s = generators * (1 - generator_idle), step_s * (1 - learner_idle)
    if min(generators, rate, busy, train_s, keep_rate, length) <= 0:
        return None
    tokens = responses * length / keep_rate
    balance = tokens / (rate / busy * train_s)
    return _Measured(
        *(step, round(generators), balance, tokens, rate, keep_rate, length),
        *(generator_idle, learner_idle),
    )


def _words(window: Sequence[_Measured], balance: float) -> str:
    keep_rate, length = median(one.keep_rate for one in window), median(one.length for one in window)
    learner, generators = median(one.learner_idle for one in window), median(one.generator_idle for one in window)
    return (
        f"with keep rate {keep_rate:.2f} and {length:.0f} tokens a response, {balance:.1f} generators keep up with the "
        f"learner, which waited {100 * learner:.0f} % of a step; generators were idle for {100 * generators:.0f} %"
    )
