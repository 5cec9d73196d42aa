"""A run whose processes are killed and stopped at random, and an audit of what came of it.

    python benchmarks/chaos.py [--kills 20] [--seed 1] [--steps-per-kill 3] [--kinds generator engine verifier learner
        redis service] [--scale 0.2] [--ranks 1] [--real] [--folder DIR] [--json FILE]

The same toy run is trained twice, first in peace. In the second each strike is a kill -9, a SIGSTOP with SIGCONT after
1 … 60 s (times --scale), or, of Redis, all connections cut; a run service that was killed is started again, and takes
its run up; the times, in steps, and the victims follow from the seed.
Then the audit compares what the append-only file of the run's Valkey has recorded (prompts issued, responses accepted
and graded, batches, steps) with the ledger: nothing is lost, nothing trained twice, and the parameters of steps that
were trained again are the same, bit for bit.

Engines are simulated (SGLang's HTTP surface, 20 ms a token, texts without sense, a coin for a grader); all else is
real: run service, generators, verifiers, learner with DeepSpeed, Valkey. With --real the engine is SGLang, too, and the
run is that of examples/reverse.yaml, smaller.

Ends with exit code 1 where anything is violated, or no step is finished for five minutes; its last line is the summary.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the simulator, which is the tests'.

from benchmarks.survival import platform, runs
from benchmarks.survival.audit import Promise
from benchmarks.survival.strikes import KINDS, Striker, plan_strikes
from dapo.host.files import write_json


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="strikes in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps-per-kill", type=float, default=3.0, help="the run is so long")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--scale", type=float, default=0.2, help="of the pauses of stopped processes")
    parser.add_argument("--ranks", type=int, default=1, help="of the learner")
    parser.add_argument("--real", action="store_true", help="with SGLang")
    parser.add_argument("--folder", type=Path, help="keep the runs' folders here")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def main() -> int:
    flags = parse()
    if flags.folder is not None:
        flags.folder.mkdir(parents=True, exist_ok=True)
        return measure(flags, flags.folder)
    with tempfile.TemporaryDirectory(prefix="dapo-chaos-") as folder:
        return measure(flags, Path(folder))


def measure(flags: argparse.Namespace, folder: Path) -> int:
    toy = platform.make_toy(folder / "toy")
    steps = max(4, round(flags.kills * flags.steps_per_kill))
    spec = (runs.real if flags.real else runs.simulated)(toy, steps, ranks=flags.ranks)
    options: dict[str, Any] = {"module": platform.REAL} if flags.real else runs.simulator(step_s=0.02, mean_tokens=24)
    promise = runs.promise(spec)
    console = Console(stderr=True)
    console.print(f"in peace: {steps} steps")
    calm = platform.train(folder / "calm", spec, lambda pid, done: None, **options)
    usual_s = statistics.median(b - a for a, b in zip(calm.step_times, calm.step_times[1:], strict=False))
    plan = plan_strikes(flags.kills, flags.seed, steps=steps, kinds=flags.kinds, scale=flags.scale)
    console.print(f"{calm.training_s:.0f} s, {usual_s:.2f} s a step; now with {len(plan)} strikes")
    striker = Striker(plan)

    def tick(pid: int, done: int) -> None:
        for blow in striker.tick(pid, done, usual_s):
            pause = f" for {blow.pause_s:.1f} s" if blow.action == "stop" else ""
            console.print(f"step {done}: {blow.action} {blow.kind}{pause}", highlight=False)

    struck = platform.train(folder / "struck", spec, tick, **options)
    return report(flags, calm, struck, striker, promise)


def report(
    flags: argparse.Namespace,
    calm: platform.FinishedRun,
    struck: platform.FinishedRun,
    striker: Striker,
    promise: Promise,
) -> int:
    violations = [f"calm run: {words}" for words in calm.violations(promise)] + struck.violations(promise)
    count = len(striker.done)
    lost_s = struck.training_s - calm.training_s
    table = Table("struck", "killed", "stopped", "cut off")
    for kind in KINDS:
        table.add_row(kind, *(str(striker.counts()[kind, action]) for action in ("kill", "stop", "cut")))
    console = Console()
    console.print(table)
    for words in violations:
        console.print(f"VIOLATED {words}", highlight=False, soft_wrap=True)
    ledger = {state: number for state, number in struck.summary["ledger"].items() if number}
    figures = {
        "strikes": count,
        "seed": flags.seed,
        "steps": promise.steps,
        "calm_s": calm.training_s,
        "struck_s": struck.training_s,
        "lost_s_per_strike": lost_s / count if count else None,
        "restarts": struck.summary["restarts"],
        "ledger": ledger,
        "violations": violations,
    }
    if flags.json:
        what = {"machine": machine("torch", "deepspeed"), "real": flags.real, "ranks": flags.ranks}
        write_json(flags.json, {**what, **figures})
    print(
        f"{'VIOLATED' if violations else 'sound'}: {count} strikes (seed {flags.seed}), {promise.steps} steps, "
        f"{struck.summary['issued_groups']} groups {ledger}, {struck.summary['restarts']} restarts, "
        f"{struck.training_s:.0f} s against {calm.training_s:.0f} s in peace"
        + (f": {lost_s / count:.1f} s lost per strike" if count else "")
    )
    return 1 if violations else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except platform.RunStalled as stalled:
        print(f"VIOLATED: {stalled}")
        sys.exit(1)
