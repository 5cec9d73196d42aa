"""Bytes and seconds of a checkpoint's training state: in the learner's form, which any number of ranks reads, and in
DeepSpeed's, which only as many as wrote it do. And for how long the training stands still for a whole checkpoint.

    python benchmarks/checkpoints.py MODEL [--folder /tmp] [--stages 0 2 3] [--ranks 1 2] [--json FILE]

Each case is a start of real ranks on the CPU (gloo, one thread each) which train one update on MODEL. `write` ends when
the files are on the disk, `read` is back into an engine of the same ranks; both are the slowest rank's, the best of
three. The copy in Hugging Face's format is the same with both and not counted there.

`stands still` is how long a whole checkpoint, that copy included, keeps the training waiting: where it is written
beside the training (checkpoint.async_save) / where the training waits for it; medians of three. `update` is one alone /
one beside the writing, of eight tokens: little but the optimizer's work, which the writing disturbs most.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.distributed as dist
from machine import machine
from rich.console import Console
from rich.table import Table

from dapo.host.files import sync, write_json
from dapo.host.ports import free_port
from dapo.records.checkpoints import file_sizes
from dapo.spec import RunSpec
from services.learner.distributed import join_ranks

ROUNDS = 3
FORMS = ("dapo", "deepspeed")


class Case(NamedTuple):
    stage: int
    dtype: str
    ranks: int


CASES = [
    Case(stage, dtype, ranks)
    for stage, dtype in ((0, "float32"), (2, "float32"), (3, "float32"), (3, "bfloat16"))
    for ranks in (1, 2)
]


def make_spec(model: str, case: Case, *, async_save: bool = True) -> RunSpec:
    return RunSpec.model_validate(
        {
            "model": {"path": model, "dtype": case.dtype},
            "data": {"path": "unused.jsonl"},
            "training": {"zero_stage": case.stage},
            "checkpoint": {"async_save": async_save},
        }
    )


def make_engine(model: str, case: Case, ranks: Any) -> Any:
    """One update behind, so that there is something of everything."""
    from services.learner.model.policy import PolicyModel, load_causal
    from services.learner.step.engine import LearnerEngine

    engine = LearnerEngine(PolicyModel(load_causal(model, case.dtype), 1.0), make_spec(model, case), ranks)
    update(engine)
    return engine


def update(engine: Any) -> None:
    ids = torch.arange(8)[None]
    logprobs, _ = engine(ids, torch.arange(7), ids[0, 1:], None)
    engine.backward(logprobs.mean())
    engine.step()


def forms(engine: Any) -> dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]]:
    """How each writes and reads."""
    from services.learner.state import own_state, read_state, write_state

    return {
        "dapo": (
            lambda folder: write_state(folder, engine.ranks.rank, own_state(engine)),
            lambda folder: read_state(folder, engine),
        ),
        "deepspeed": (
            lambda folder: engine.deepspeed.save_checkpoint(str(folder), tag="shards", save_latest=False),
            lambda folder: engine.deepspeed.load_checkpoint(str(folder), tag="shards", load_lr_scheduler_states=False),
        ),
    }


def timed(action: Callable[[], Any]) -> float:
    """Seconds until every rank is done."""
    dist.barrier()
    started = time.monotonic()
    action()
    dist.barrier()
    return time.monotonic() - started


def measure_standstill(engine: Any, spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Seconds for which the training stands still for a checkpoint, of an update alone and of those meanwhile."""
    from services.learner.checkpoint import CheckpointStore
    from services.learner.distributed import min_ints
    from services.learner.step.trainer import Trainer

    store = CheckpointStore(folder, spec, Trainer(spec, engine))
    writer = ThreadPoolExecutor(1)
    still, meanwhile = [], []
    alone = median(timed(lambda: update(engine)) for _ in range(ROUNDS))
    for step in range(1, ROUNDS + 1):
        drafts = []
        stood = timed(lambda drafts=drafts, step=step: drafts.append(store.draft(step, 1, None)))
        (draft,) = drafts
        written = writer.submit(store.write, draft)
        while draft.beside and not min_ints([written.done()])[0]:
            meanwhile.append(timed(lambda: update(engine)))

        def count(draft: Any = draft, written: Any = written) -> None:
            written.result()
            dist.barrier()
            if store.ranks.leads:
                store.complete(draft)
                store.mark(draft.directory, 1)
                store.prune(1)

        still.append(stood + timed(count))
    return {
        "beside": draft.beside,
        "still_s": median(still),
        "update_s": alone,
        "meanwhile_s": median(meanwhile) if meanwhile else None,
    }


def run_rank(model: str, case: Case, folder: Path) -> None:
    """One rank of a case; the first prints the figures of each form as JSON."""
    rank = int(os.environ["RANK"])
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), case.ranks, rank == 0)
    ranks = join_ranks("cpu", store, rank=rank, world_size=case.ranks)
    engine = make_engine(model, case, ranks)
    found: dict[str, dict[str, Any]] = {}
    for form, (write, read) in forms(engine).items():
        times = []
        for number in range(ROUNDS):
            target = folder / f"{form}-{number}"

            def write_through(write: Callable[[Path], Any] = write, target: Path = target) -> None:
                target.mkdir(exist_ok=True)
                write(target)
                dist.barrier()
                if ranks.leads:
                    for path in target.rglob("*"):
                        sync(path)

            times.append((timed(write_through), timed(lambda read=read, target=target: read(target))))
        size = sum(file_sizes(target).values())
        found[form] = {"bytes": size, "write_s": min(t[0] for t in times), "read_s": min(t[1] for t in times)}
    for name, async_save in (("async", True), ("waiting", False)):
        spec = make_spec(model, case, async_save=async_save)
        found[name] = measure_standstill(engine, spec, folder / name)
    if ranks.leads:
        print("figures", json.dumps(found))
    dist.barrier()


def measure(model: str, case: Case, folder: Path) -> dict[str, dict[str, Any]]:
    common = {**os.environ, "MASTER_PORT": str(free_port())}
    with tempfile.TemporaryDirectory(dir=folder) as target:
        command = [sys.executable, __file__, model, "--folder", target, "--case", json.dumps(case)]
        processes = [
            subprocess.Popen(
                command,
                env={**common, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(case.ranks)
        ]
        outputs = [process.communicate() for process in processes]
    lines = [line for line in outputs[0][0].splitlines() if line.startswith("figures ")]
    if not lines:
        raise SystemExit(f"{case}: " + "\n".join(errors for _, errors in outputs))
    found: dict[str, dict[str, Any]] = json.loads(lines[0].removeprefix("figures "))
    return found


def make_table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in ("stage", "dtype", "ranks", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face model directory")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where checkpoints are written")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 2, 3], help="ZeRO stages of the cases")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="learner ranks of the cases")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        run_rank(options.model, Case(*json.loads(options.case)), options.folder)
        return
    cases = [case for case in CASES if case.stage in options.stages and case.ranks in options.ranks]
    figures = [(case, measure(options.model, case, options.folder)) for case in cases]
    states = make_table(f"{options.model}: this form / DeepSpeed's", "MiB", "write s", "read s")
    waits = make_table("Whole checkpoints beside the training", "stands still s", "update s")
    for case, found in figures:
        sizes = " / ".join(f"{found[form]['bytes'] / 2**20:.1f}" for form in FORMS)
        times = [" / ".join(f"{found[form][what]:.2f}" for form in FORMS) for what in ("write_s", "read_s")]
        label = (str(case.stage), case.dtype, str(case.ranks))
        states.add_row(*label, sizes, *times)
        beside = found["async"]
        still = f"{beside['still_s']:.2f} / {found['waiting']['still_s']:.2f}"
        update = f"{beside['meanwhile_s']:.2f}" if beside["beside"] else "no room"
        waits.add_row(*label, still, f"{beside['update_s']:.2f} / {update}")
    Console().print(states, waits, str(machine()))
    if options.json:
        write_json(options.json, [{**case._asdict(), **found} for case, found in figures])


if __name__ == "__main__":
    main()
