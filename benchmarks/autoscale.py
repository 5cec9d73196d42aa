"""Generators that follow what a run measures, beside a fixed number of them, in simulated runs.

    python benchmarks/autoscale.py [--staleness 2] [--noise 0.1] [--window 8] [--seeds 20] [--json FILE]

Three loads: a keep rate that falls from 1 to 0.3 over 40 steps, the same at once, and responses that get twice as long
over 20 steps. The run starts in balance, with two generators. Generators and learner are formulas
(tests/support/orchestrator/fleet.py: a learner half of whose time grows with the length, 120 s before a new generator
works); what decides is the code that scales real runs (dapo/algo/scaling.py). `n*` is the number that would keep up
with the learner, known to the simulation alone. `steps to balance` counts from the first step of the last load;
`turned back` are changes against the one before. The learner's idle share is of the last 40 steps, the time of all, in
the mean over the seeds.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from machine import machine
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the simulation, which is the tests'.

from dapo.algo.scaling import GENERATOR_SLACK, LEARNER_SLACK, Limits
from dapo.host.files import write_json
from tests.support.orchestrator.fleet import Fleet, Load, Seen, simulate

_STEPS, _START, _MOST, _LAST = 120, 2, 16, 40


class Scenario(NamedTuple):
    name: str
    load: Callable[[int], Load]
    settled_from: int
    """The first step whose load is that of all later ones."""


def _share(step: int, begin: int, end: int) -> float:
    return min(1.0, max(0.0, (step - begin) / (end - begin)))


SCENARIOS = (
    Scenario("keep rate 1 → 0.3 in 40 steps", lambda step: Load(keep_rate=1 - 0.7 * _share(step, 10, 50)), 50),
    Scenario("keep rate 1 → 0.3 at once", lambda step: Load(keep_rate=1 - 0.7 * _share(step, 10, 11)), 11),
    Scenario("lengths × 2 in 20 steps", lambda step: Load(length=1000 * (1 + _share(step, 10, 30))), 30),
)


class Result(NamedTuple):
    scenario: str
    fleet: str
    balance: float
    generators: list[int]
    """At the end, each number that was seen."""
    share: float
    """f at the end, where a generator has as many devices as the learner."""
    changes: float
    turned_back: int
    steps_to_balance: int | None
    """The most of any seed; None where one never gets there, or does not stay."""
    learner_idle: float
    hours: float


def _in_balance(one: Seen) -> bool:
    balance = one.load.balance
    return (1 - LEARNER_SLACK) * balance <= one.count < (1 + GENERATOR_SLACK) * balance + 1


def _changes(seen: list[Seen]) -> list[int]:
    return [after.count - before.count for before, after in pairwise(seen) if after.count != before.count]


def measure(scenario: Scenario, limits: Limits | None, fleet: Fleet, seeds: int) -> Result:
    runs = [simulate(scenario.load, _STEPS, _START, replace(fleet, seed=seed), limits) for seed in range(seeds)]
    changes = [_changes(seen) for seen in runs]
    late = [max((number for number, one in enumerate(seen, 1) if not _in_balance(one)), default=0) + 1 for seen in runs]
    stays = max(late) <= _STEPS
    return Result(
        scenario=scenario.name,
        fleet="fixed" if limits is None else "autoscale",
        balance=runs[0][-1].load.balance,
        generators=sorted({seen[-1].count for seen in runs}),
        share=fmean(seen[-1].share for seen in runs),
        changes=fmean(map(len, changes)),
        turned_back=sum(one * other < 0 for found in changes for one, other in pairwise(found)),
        steps_to_balance=max(0, max(late) - scenario.settled_from) if stays else None,
        learner_idle=fmean(one.row["learner_idle"] or 0.0 for seen in runs for one in seen[-_LAST:]),
        hours=fmean(sum(one.row["step_s"] or 0.0 for one in seen) for seen in runs) / 3600,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--staleness", type=int, default=2)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    fleet = Fleet(args.staleness, args.noise)
    limits = Limits(1, _MOST, args.window)
    results = [measure(one, wanted, fleet, args.seeds) for one in SCENARIOS for wanted in (None, limits)]
    table = Table(
        "load", "fleet", "n*", "generators", "f", "changes", "turned back", "steps to balance", "learner idle"
    )
    table.add_column("hours")
    for one in results:
        table.add_row(
            *(one.scenario, one.fleet, f"{one.balance:.1f}", "–".join(map(str, one.generators))),
            *(f"{one.share:.2f}", f"{one.changes:.1f}", str(one.turned_back)),
            *(
                "never" if one.steps_to_balance is None else str(one.steps_to_balance),
                f"{abs(100 * one.learner_idle):.0f} %",
            ),
            f"{one.hours:.1f}",
        )
    Console(width=150).print(table)
    if args.json is not None:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        write_json(args.json, {"machine": machine(), **settings, "results": [one._asdict() for one in results]})


if __name__ == "__main__":
    main()
