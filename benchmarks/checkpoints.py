"""Bytes and seconds of a checkpoint's training state: in the learner's form, which any number of ranks reads, and in
DeepSpeed's, which only as many as wrote it do.

    python benchmarks/checkpoints.py MODEL [--folder /tmp] [--json FILE]

Each case is a start of real ranks on the CPU (gloo, one thread each) which train one update on MODEL. `write` ends when
the files are on the disk, `read` is back into an engine of the same ranks; both are the slowest rank's, the best of
three. The copy in Hugging Face's format is the same with both and not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
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


def make_engine(model: str, case: Case, ranks: Any) -> Any:
    """One update behind, so that there is something of everything."""
    from services.learner.model.policy import PolicyModel, load_causal
    from services.learner.step.engine import LearnerEngine

    spec = RunSpec.model_validate(
        {
            "model": {"path": model, "dtype": case.dtype},
            "data": {"path": "unused.jsonl"},
            "training": {"zero_stage": case.stage},
        }
    )
    engine = LearnerEngine(PolicyModel(load_causal(model, case.dtype), 1.0), spec, ranks)
    ids = torch.arange(8)[None]
    logprobs, _ = engine(ids, torch.arange(7), ids[0, 1:], None)
    engine.backward(logprobs.mean())
    engine.step()
    return engine


def forms(engine: Any) -> dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]]:
    """How each writes and reads."""
    from services.learner.state import read_state, write_state

    return {
        "dapo": (lambda folder: write_state(folder, engine), lambda folder: read_state(folder, engine)),
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


def run_rank(model: str, case: Case, folder: Path) -> None:
    """One rank of a case; the first prints the figures of each form as JSON."""
    rank = int(os.environ["RANK"])
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), case.ranks, rank == 0)
    ranks = join_ranks("cpu", store, rank=rank, world_size=case.ranks)
    engine = make_engine(model, case, ranks)
    found = {}
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
    if ranks.leads:
        print("figures", json.dumps(found))
    dist.barrier()


def measure(model: str, case: Case, folder: Path) -> dict[str, dict[str, float]]:
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
    found: dict[str, dict[str, float]] = json.loads(lines[0].removeprefix("figures "))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face model directory")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where checkpoints are written")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        run_rank(options.model, Case(*json.loads(options.case)), options.folder)
        return
    figures = [(case, measure(options.model, case, options.folder)) for case in CASES]
    table = Table(title=f"{options.model}: this form / DeepSpeed's", caption=str(machine()))
    for column in ("stage", "dtype", "ranks", "MiB", "write s", "read s"):
        table.add_column(column, justify="right", no_wrap=True)
    for case, found in figures:
        sizes = " / ".join(f"{found[form]['bytes'] / 2**20:.1f}" for form in FORMS)
        times = [" / ".join(f"{found[form][what]:.2f}" for form in FORMS) for what in ("write_s", "read_s")]
        table.add_row(str(case.stage), case.dtype, str(case.ranks), sizes, *times)
    Console().print(table)
    if options.json:
        write_json(options.json, [{**case._asdict(), **found} for case, found in figures])


if __name__ == "__main__":
    main()
