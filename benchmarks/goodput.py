"""Trained groups a second against the half-life of generators, beside the same run in peace.

    python benchmarks/goodput.py [--half-lives 300 120 60 30 10] [--generators 4] [--seconds 90] [--staleness 2]
        [--seed 1] [--folder DIR] [--json FILE]

Each generator is killed (kill -9, and its engine with it) as if it had a half-life of so many seconds; the run service
starts another in its place, after a second. Each run has as many steps as take about --seconds in peace.

Engines are simulated: 50 ms a token whatever the load, 8 responses at a time, 100 tokens in the mean, 2 s to start
beside what the process itself takes. So generation is what limits the run; all else is real, as in chaos.py, and the
same audit is made of each run. `lost` counts tokens of responses that were never accepted, less those that the run in
peace lost (at its end), for each kill.

Ends by itself: with exit code 1 where the audit finds a group lost or anything else violated.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from machine import machine
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the simulator, which is the tests'.

from benchmarks.survival import platform, runs
from benchmarks.survival.audit import Promise
from benchmarks.survival.strikes import victims
from dapo.host.files import write_json

_ENGINE = {"step_s": 0.05, "mean_tokens": 100.0, "max_running": 8, "start_s": 2.0}
_GROUP, _PROMPTS = 4, 8


class Point(NamedTuple):
    half_life_s: float | None
    """None: in peace."""
    kills: int
    groups_per_s: float
    lost_tokens: int
    learner_idle: float
    violations: list[str]


class Reaper:
    """Kills generators as if each had this half-life. `tick` once the run trains."""

    def __init__(self, half_life_s: float, generators: int, seed: int) -> None:
        self._mean_s = half_life_s / math.log(2) / generators
        self._generators = generators
        self._rng = random.Random(seed)
        self._next = math.inf
        self.kills = 0

    def _pause_s(self) -> float:
        return self._mean_s * self._rng.expovariate(1.0)

    def tick(self, pid: int, steps: int) -> None:
        now = time.monotonic()
        if steps and math.isinf(self._next):
            self._next = now + self._pause_s()
        while now >= self._next:
            self._next += self._pause_s()
            living = victims(pid, "generator")
            # One that is being replaced cannot die.
            if (chosen := self._rng.randrange(self._generators)) < len(living):
                living[chosen].kill()
                self.kills += 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half-lives", nargs="*", type=float, default=[300.0, 120.0, 60.0, 30.0, 10.0], help="seconds")
    parser.add_argument("--generators", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=90.0, help="of each run in peace, about")
    parser.add_argument("--staleness", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the runs' folders here")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def usual_step_s(generators: int) -> float:
    """By the engines' speed alone."""
    tokens = _PROMPTS * _GROUP * _ENGINE["mean_tokens"]
    return tokens * _ENGINE["step_s"] / (_ENGINE["max_running"] * generators)


def measure(flags: argparse.Namespace, folder: Path) -> list[Point]:
    toy = platform.make_toy(folder / "toy")
    steps = max(5, round(flags.seconds / usual_step_s(flags.generators)))
    spec = runs.simulated(
        toy,
        steps,
        sampling={"group_size": _GROUP},
        training={"prompts_per_step": _PROMPTS},
        asynchrony={"max_staleness": flags.staleness},
        checkpoint={"every_steps": 20},
    )
    spec["resources"]["generator"] = {
        "replicas": flags.generators,
        "max_running_requests": int(_ENGINE["max_running"]),
    }
    spec["resources"]["verifier"] = {"replicas": 1}
    points: list[Point] = []
    console = Console(stderr=True)
    for number, half_life in enumerate([None, *flags.half_lives, None]):
        place = folder / f"{number}-{'peace' if half_life is None else f'{half_life:g}'}"
        points.append(one(place, spec, half_life, flags))
        console.print(f"{name(points[-1])}: {points[-1].groups_per_s:.2f} groups/s, {points[-1].kills} kills")
    return points


def one(folder: Path, spec: runs.Spec, half_life: float | None, flags: argparse.Namespace) -> Point:
    reaper = Reaper(half_life or math.inf, flags.generators, flags.seed)
    counts = folder / "tokens"
    finished = platform.train(folder, spec, reaper.tick, **runs.simulator(counts=counts, **_ENGINE))
    promise: Promise = runs.promise(spec)
    sampled = sum(int(path.read_bytes() or b"0") for path in counts.iterdir())
    return Point(
        half_life,
        reaper.kills,
        (promise.steps - 1) * promise.prompts_per_step / finished.training_s,
        sampled - finished.journal.accepted_tokens,
        fmean(row["learner_idle"] for row in finished.rows[1:]),
        finished.violations(promise),
    )


def name(point: Point) -> str:
    return "peace" if point.half_life_s is None else f"{point.half_life_s:g} s"


def figures_of(points: Sequence[Point]) -> list[dict[str, Any]]:
    calm = [point for point in points if point.half_life_s is None]
    calm_rate, calm_lost = fmean(p.groups_per_s for p in calm), fmean(p.lost_tokens for p in calm)
    return [
        {
            "half_life": name(point),
            "kills": point.kills,
            "groups_per_s": point.groups_per_s,
            "of_calm": point.groups_per_s / calm_rate,
            "lost_tokens_per_kill": (point.lost_tokens - calm_lost) / point.kills if point.kills else None,
            "learner_idle": point.learner_idle,
            "violations": point.violations,
        }
        for point in points
    ]


def main() -> int:
    flags = parse()
    with tempfile.TemporaryDirectory(prefix="dapo-goodput-") as temporary:
        folder = flags.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = figures_of(measure(flags, folder))
    table = Table("half-life", "kills", "groups/s", "of calm", "tokens lost a kill", "learner idle", "violations")
    for row in figures:
        lost = row["lost_tokens_per_kill"]
        table.add_row(
            row["half_life"],
            str(row["kills"]),
            f"{row['groups_per_s']:.2f}",
            f"{row['of_calm']:.2f}",
            "" if lost is None else f"{lost:,.0f}",
            f"{row['learner_idle']:.2f}",
            str(len(row["violations"])),
        )
    console = Console()
    console.print(table)
    for row in figures:
        for words in row["violations"]:
            console.print(f"VIOLATED {row['half_life']}: {words}", highlight=False, soft_wrap=True)
    if flags.json:
        setting = {"generators": flags.generators, "staleness": flags.staleness, "seed": flags.seed, "engine": _ENGINE}
        write_json(flags.json, {"machine": machine("torch", "deepspeed"), "setting": setting, "points": figures})
    return 1 if any(row["violations"] for row in figures) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except platform.RunStalled as stalled:
        print(f"VIOLATED: {stalled}")
        sys.exit(1)
