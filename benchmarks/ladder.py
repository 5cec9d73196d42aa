"""The ladder from GRPO to DAPO, DAPO less one technique at a time, and PPO against GRPO against DAPO.

    python benchmarks/ladder.py [--rungs 1 … 6] [--tasks reverse pauses] [--seeds 3] [--steps 30] [--leave-one-out]
        [--algorithms ppo grpo dapo] [--memory-millions 30] [--folder DIR] [--json FILE] [--picture FILE]

Each run is the whole platform, as `dapo train` starts it, one after the other, on the small model of
examples/reverse.yaml; every step trains on 512 responses in 4 updates, whatever the group size. Variants are compared
at equal generated tokens: the smallest total among those compared, on every seed, two steps before the end, since the
last two train on what is there already and spend none. Accuracy is that of all sampled responses, filtered groups
included, at temperature 1; in 30 steps no row of the data is drawn twice, so it is not accuracy on what was trained on.

    reverse   five letters reversed; next to nothing is truncated
    pauses    the same after as many pauses as the policy likes, six in the mean at first: 18 % are cut at 16 tokens

PPO, GRPO and DAPO keep their presets' group sizes (1, 8, 16) and KL (GRPO's 0.04 in the loss, with a reference model).

With --folder a finished run is not made again: stop with Ctrl-C and go on later. With --algorithms, PPO, GRPO and DAPO
also train a wider, random model for three steps (--memory-millions of parameters, 0 for none), in which weights and
optimizer states outweigh the libraries, to see what going without a critic saves.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ablation import figures, inputs, picture, tables, variants
from ablation.runs import FinishedRun, RunError, TrainingJob, load_finished, run
from machine import machine
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dapo.host.files import write_json
from dapo.spec import RunSpec

_START_S = 40
"""Rough duration of what a run does besides its steps: SGLang's start, the last checkpoint."""
_MEMORY_RUN_S = 120
_MEMORY = "memory"
"""Stands for a task in the keys of the memory runs."""
_FILE_WIDTH = 170
"""Characters of a table's line where it does not go to a terminal."""
Key = tuple[str, str, int]
"""Task, variant, seed."""


def rung_name(text: str) -> str:
    """A rung by its name or number."""
    for name in variants.RUNGS:
        if text in (name, name.partition("-")[0]):
            return name
    raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(variants.RUNGS)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", nargs="*", type=rung_name, default=list(variants.RUNGS), metavar="RUNG")
    parser.add_argument("--tasks", nargs="+", choices=variants.TASKS, default=list(variants.TASKS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant on each task")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--leave-one-out", action="store_true", help="DAPO without each of its techniques")
    parser.add_argument("--algorithms", nargs="+", choices=("ppo", "grpo", "dapo"), default=[])
    parser.add_argument("--memory-millions", type=float, default=30, help="parameters of the wider model, in millions")
    parser.add_argument("--folder", type=Path, help="keep models and runs here, and reuse them")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--picture", type=Path, help="draw the curves here (PNG)")
    arguments = parser.parse_args()
    if not (arguments.rungs or arguments.leave_one_out or arguments.algorithms):
        parser.error("nothing to compare: give --rungs, --leave-one-out or --algorithms")
    return arguments


@contextmanager
def working_folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def plan_jobs(
    compared: Sequence[variants.Comparison], arguments: argparse.Namespace, folder: Path
) -> dict[Key, TrainingJob]:
    """Seed by seed, so that whoever stops early has one seed of everything."""
    jobs: dict[Key, TrainingJob] = {}
    for seed in range(1, arguments.seeds + 1):
        for task in arguments.tasks:
            found = inputs.make_inputs(folder, task)
            for variant in (variant for one in compared for variant in one.variants.values()):
                spec = variants.make_spec(variant, task, inputs=found, seed=seed, steps=arguments.steps)
                place = folder / "runs" / task / variant.key / f"seed-{seed}"
                jobs[task, variant.key, seed] = TrainingJob(task, variant.key, seed, spec, place)
    return jobs


def plan_memory_jobs(arguments: argparse.Namespace, folder: Path) -> dict[Key, TrainingJob]:
    if not (arguments.algorithms and arguments.memory_millions):
        return {}
    found = inputs.make_wide_inputs(folder, arguments.memory_millions)
    jobs = {}
    for preset in arguments.algorithms:
        place = folder / "runs" / found.name / preset / "seed-1"
        jobs[_MEMORY, preset, 1] = TrainingJob(
            _MEMORY, preset, 1, variants.make_memory_spec(preset, inputs=found), place
        )
    return jobs


def estimate_s(job: TrainingJob) -> float:
    if job.task == _MEMORY:
        return _MEMORY_RUN_S
    return _START_S + job.spec.training.steps * variants.TASKS[job.task].step_s


def run_all(jobs: dict[Key, TrainingJob], console: Console) -> dict[Key, FinishedRun]:
    """Every run that ends well; of the others the error is shown."""
    finished = {key: done for key, job in jobs.items() if (done := load_finished(job)) is not None}
    left = {key: job for key, job in jobs.items() if key not in finished}
    minutes = sum(map(estimate_s, left.values())) / 60
    console.print(f"{len(jobs)} runs, {len(finished)} of them done; about {minutes:.0f} minutes on two cores")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=console) as progress:
        bar = progress.add_task("runs", total=sum(map(estimate_s, left.values())), at="")
        spent = 0.0
        for number, (key, job) in enumerate(left.items(), start=1):
            place = f"{number}/{len(left)} {job.task} {job.key} seed {job.seed}"
            if not console.is_terminal:
                console.print(place, soft_wrap=True)
            try:
                finished[key] = run(job, partial(_show, progress, bar, spent, place, job))
            except RunError as error:
                console.print(str(error), style="red", markup=False, soft_wrap=True)
            spent += estimate_s(job)
            progress.update(bar, completed=spent)
    return finished


def _show(progress: Progress, bar: TaskID, spent: float, place: str, job: TrainingJob, step: int) -> None:
    """`spent` and the bar's total are estimated seconds."""
    steps = job.spec.training.steps
    progress.update(bar, completed=spent + estimate_s(job) * step / steps, at=f"{place}, step {step}/{steps}")


def runs_of(one: variants.Comparison, task: str, finished: dict[Key, FinishedRun]) -> dict[str, dict[int, FinishedRun]]:
    """Finished runs by label and seed; labels without one are left out."""
    found = {
        label: {key[2]: done for key, done in finished.items() if key[:2] == (task, variant.key)}
        for label, variant in one.variants.items()
    }
    return {label: by_seed for label, by_seed in found.items() if by_seed}


def show(title: str, runs: dict[str, dict[int, FinishedRun]], cost: bool, console: Console) -> dict[str, Any]:
    """Prints the table; returns what --json gets: budgets, and by label the figures, their spread and the curves."""
    budget = figures.budgets(done.rows for by_seed in runs.values() for done in by_seed.values())
    single = {
        label: {seed: figures.run_figures(done.rows, done.peak_rss_bytes, budget) for seed, done in by_seed.items()}
        for label, by_seed in runs.items()
    }
    spreads = {label: figures.over_seeds(list(by_seed.values())) for label, by_seed in single.items()}
    columns, note = (tables.COST, tables.COST_NOTE) if cost else (tables.COURSE, tables.COURSE_NOTE)
    heading = f"{title}: equal tokens are {budget['generated_tokens']:,.0f}"
    console.print(tables.table(heading, columns, spreads, note))
    written = {
        label: {
            "spread": {name: found.as_json() for name, found in spreads[label].items()},
            "seeds": single[label],
            "curves": {seed: figures.curves(done.rows) for seed, done in by_seed.items()},
        }
        for label, by_seed in runs.items()
    }
    return {"budgets": budget, "variants": written}


def compare_memory(finished: dict[Key, FinishedRun], jobs: dict[Key, TrainingJob]) -> dict[str, dict[str, float]]:
    """By preset, where --algorithms asked for it."""
    runs = {key: done for key, done in finished.items() if key[0] == _MEMORY}
    if not runs:
        return {}
    imports_mib = inputs.import_peak_bytes() / figures.MIB
    return {key[1]: memory_figures(jobs[key].spec, done, imports_mib) for key, done in runs.items()}


def memory_figures(spec: RunSpec, done: FinishedRun, imports_mib: float) -> dict[str, float]:
    """`state_mib` is by count: weights, gradients and two moments of what is trained, and the reference's weights."""
    weight_bytes = inputs.weight_bytes(Path(spec.data.path).parent)
    networks = 2 if spec.algorithm.advantage_estimator == "gae" else 1
    return {
        "parameters": weight_bytes / 4,
        "peak_mib": done.peak_rss_bytes / figures.MIB,
        "own_mib": done.peak_rss_bytes / figures.MIB - imports_mib,
        "state_mib": weight_bytes / figures.MIB * (4 * networks + spec.algorithm.needs_reference),
        "train_s": figures.values(done.rows, "train_s")[-1],
    }


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    arguments = parse()
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True)
    compared = variants.comparisons(arguments.rungs, arguments.leave_one_out, arguments.algorithms)
    with working_folder(arguments.folder) as folder:
        jobs = plan_jobs(compared, arguments, folder) | plan_memory_jobs(arguments, folder)
        finished = run_all(jobs, console)
        memory = compare_memory(finished, jobs)
    out = Console()
    if not out.is_terminal:
        out = Console(width=_FILE_WIDTH)
    written, drawn = {}, {}
    for one in compared:
        for task in arguments.tasks:
            if runs := runs_of(one, task, finished):
                title = f"{one.title}, {task}"
                written[title] = show(title, runs, one.title == variants.ALGORITHMS, out)
                drawn[title] = {label: [done.rows for done in by_seed.values()] for label, by_seed in runs.items()}
    if memory:
        out.print(tables.memory_table(memory))
    if arguments.json:
        report = {"machine": machine(), "steps": arguments.steps, "comparisons": written, "memory": memory}
        write_json(arguments.json, report)
    if arguments.picture and drawn:
        picture.draw(drawn, arguments.picture)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here if it names a --folder")
    except RunError as error:
        sys.exit(f"error: {error}")
