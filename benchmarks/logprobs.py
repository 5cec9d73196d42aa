"""Memory of the learner's log-probabilities at a large vocabulary, against evaluating all logits at once.

    python benchmarks/logprobs.py [--tokens 16384] [--all-tokens 1024] [--device cuda --dtype bfloat16] [--json FILE]

Each case runs forward and backward in a process of its own, with the vocabulary and width of Qwen2.5-0.5B; on the CPU
in one thread. `peak` is the growth of the process's resident memory, or of what it has allocated on the GPU, over what
held the inputs: hidden states and the output embedding's weight. `rest` leaves out the gradient of that weight, which
every way needs and no token count changes; the ratio is rest to the hidden states.

    all logits       log-softmax of [tokens, vocabulary], by autograd; at fewer tokens, as it would not fit
    chunks of n MiB  `head_logprobs`; without its entropy's gradient
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from machine import machine
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from dapo.host.files import write_json
from services.learner.model.logprobs import CHUNK_BYTES, head_logprobs

VOCABULARY, WIDTH = 151_936, 896
MIB = 2**20
_DEFAULT_MIB = CHUNK_BYTES // MIB


class Case(NamedTuple):
    tokens: int
    chunk_mib: int | None
    """None: all logits at once."""
    device: str
    dtype: str

    @property
    def label(self) -> str:
        return "all logits" if self.chunk_mib is None else f"chunks of {self.chunk_mib} MiB"


class Figures(NamedTuple):
    peak_mib: float
    seconds: float


def all_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logprobs = (hidden @ weight.t()).log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), entropy


def chunked(chunk_mib: int) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    def evaluate(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return head_logprobs(hidden, weight, None, targets, 1.0, chunk_bytes=chunk_mib * MIB)

    return evaluate


def memory_mib(name: str) -> float:
    """A field of this process's memory: VmRSS, resident now, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def measure(case: Case) -> Figures:
    """In this process, which must have held nothing larger before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    hidden = torch.randn(case.tokens, WIDTH).to(case.device, dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).mul_(0.02).to(case.device, dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (case.tokens,), device=case.device)
    evaluate = all_logits if case.chunk_mib is None else chunked(case.chunk_mib)

    def passes() -> float:
        """Seconds of one forward and one backward pass."""
        start = time.perf_counter()
        logprobs, _ = evaluate(hidden, weight, targets)
        logprobs.sum().backward()
        if case.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if case.device == "cpu":
        before = memory_mib("VmRSS")
        took = passes()
        return Figures(memory_mib("VmHWM") - before, took)
    passes()  # CUDA's libraries load with their first use.
    hidden.grad = weight.grad = None
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    took = passes()
    return Figures((torch.cuda.max_memory_allocated() - allocated) / MIB, took)


def measure_in_child(case: Case) -> Figures:
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Figures(*json.loads(found))


def summarize(case: Case, figures: Figures) -> dict[str, object]:
    bytes_each = getattr(torch, case.dtype).itemsize
    hidden_mib = case.tokens * WIDTH * bytes_each / MIB
    rest_mib = figures.peak_mib - VOCABULARY * WIDTH * bytes_each / MIB
    return {
        "case": case.label,
        "tokens": case.tokens,
        "hidden_mib": hidden_mib,
        "peak_mib": figures.peak_mib,
        "rest_mib": rest_mib,
        "of_hidden": rest_mib / hidden_mib,
        "tokens_per_s": case.tokens / figures.seconds,
    }


def about(device: str) -> dict[str, object]:
    found = machine("torch")
    return {"gpu": torch.cuda.get_device_name(), **found} if device == "cuda" else found


def show(rows: list[dict[str, object]], measured_on: dict[str, object]) -> None:
    table = Table(
        title=f"vocabulary {VOCABULARY:,}, width {WIDTH}; memory in MiB, the learner's own is {_DEFAULT_MIB} MiB",
        caption=", ".join(f"{name} {value}" for name, value in measured_on.items()),
    )
    for column in ("", "tokens", "hidden", "peak", "rest", "ratio", "tokens/s"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        sizes = (f"{row[name]:,.0f}" for name in ("tokens", "hidden_mib", "peak_mib", "rest_mib"))
        table.add_row(str(row["case"]), *sizes, f"{row['of_hidden']:.1f}", f"{row['tokens_per_s']:,.0f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--all-tokens", type=int, default=1024, help="for all logits: about 2 MiB of memory a token")
    parser.add_argument("--chunk-mib", type=int, nargs="+", default=[_DEFAULT_MIB], help="chunk sizes to compare")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of hidden states and weight"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(Case(*arguments.case))))
        return
    where = (arguments.device, arguments.dtype)
    cases = [Case(arguments.all_tokens, None, *where), Case(arguments.all_tokens, _DEFAULT_MIB, *where)]
    cases += [Case(arguments.tokens, chunk_mib, *where) for chunk_mib in arguments.chunk_mib]
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        for case in progress.track(cases, description="minutes at 16k tokens"):
            rows.append(summarize(case, measure_in_child(case)))
    measured_on = about(arguments.device)
    show(rows, measured_on)
    if arguments.json:
        write_json(arguments.json, {"machine": measured_on, "cases": rows})


if __name__ == "__main__":
    main()
