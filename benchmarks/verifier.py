"""What the grading pool costs: verdicts a second and their latency, against grading in this very process, the limit.

    python benchmarks/verifier.py [--responses 4000] [--grader math_verify] [--rounds 3] [--json FILE]

The responses are real ones of language models where ../shared/data has them, else synthetic. Each round measures
everything once, interleaved; the median round is shown. Throughput: batches of 256, four at a time, as a verifier takes
them from the stream. Latency: 16 single responses in flight. In process, without any of the pool's protection, the
grader is called, and math-verify itself as its own documentation has it: that is the first row, the limit.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from machine import machine
from rich.console import Console
from rich.table import Table

from dapo.host.files import write_json
from dapo.spec.tree.graders import BUILT_IN
from services.verifier.graders import Verdict, build_grader, text_for_grader
from services.verifier.grading.pool import GradingPool
from services.verifier.request import GradingRequest

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_FILES = ("math_model_outputs.jsonl", "gsm8k_model_outputs.jsonl")
_BATCH = 256
_BATCHES_IN_FLIGHT = 4
_SINGLES_IN_FLIGHT = 16
_LATENCY_SHARE = 4
"""One in so many responses is graded again for its latency."""
Measured = dict[str, float]


def read_rows(count: int) -> tuple[list[tuple[str, str]], str]:
    """(response, gold) pairs, repeated up to `count`, and where they come from."""
    rows = []
    for name in _FILES:
        if (_DATA / name).exists():
            found = map(json.loads, (_DATA / name).read_text().splitlines())
            rows += [(str(row["response"]), str(row["gold"])) for row in found]
    source = f"{len(rows)} responses to MATH and GSM8K, repeated"
    if not rows:
        step = "We add the two numbers and simplify the fraction as before. " * 12
        rows = [(f"{step}The answer is $\\boxed{{{n}}}$.", str(n + n % 2)) for n in range(1000)]
        rows += [
            (f"{step}So it is $\\boxed{{\\frac{{{n}}}{{{n + 3}}}}}$.", f"{2 * n}/{2 * n + 6}") for n in range(1000)
        ]
        source = f"{len(rows)} synthetic responses, repeated"
    return [rows[index * 7919 % len(rows)] for index in range(count)], source


def measure_inline(rows: Sequence[tuple[str, str]], grade: Callable[[str, str], object]) -> Measured:
    took = []
    began = time.perf_counter()
    for text, gold in rows:
        at = time.perf_counter()
        grade(text, gold)
        took.append(time.perf_counter() - at)
    return {"per_s": len(rows) / (time.perf_counter() - began), **percentiles(took)}


def percentiles(took: Sequence[float]) -> Measured:
    """In milliseconds."""
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {f"p{number}_ms": cuts[number - 1] * 1e3 for number in (50, 95, 99)}


async def measure_pool(requests: Sequence[GradingRequest], processes: int) -> Measured:
    name = requests[0].grader
    pool = GradingPool(
        {name: BUILT_IN[name]}, timeout_s=10.0, required={name: "grader"}, processes=processes, memory_mib=4096
    )
    running = asyncio.create_task(pool.run())
    await pool.grade(requests[:_BATCH])  # they have started and imported what they need
    began = time.perf_counter()
    await in_flight([requests[at : at + _BATCH] for at in range(0, len(requests), _BATCH)], pool, _BATCHES_IN_FLIGHT)
    per_s = len(requests) / (time.perf_counter() - began)
    took = await in_flight([[one] for one in requests[::_LATENCY_SHARE]], pool, _SINGLES_IN_FLIGHT)
    running.cancel()
    await asyncio.wait([running])
    return {"per_s": per_s, **percentiles(took)}


async def in_flight(batches: list[Sequence[GradingRequest]], pool: GradingPool, count: int) -> list[float]:
    """Seconds that each batch took, `count` at a time."""
    waiting = list(reversed(batches))
    took = []

    async def work() -> None:
        while waiting:
            batch = waiting.pop()
            at = time.perf_counter()
            await pool.grade(batch)
            took.append(time.perf_counter() - at)

    await asyncio.gather(*(work() for _ in range(count)))
    return took


def make_library_grader() -> Callable[[str, str], object]:
    """math-verify as its documentation calls it."""
    from math_verify import parse, verify

    return lambda text, gold: verify(parse(f"${gold}$"), parse(text))


def one_round(rows: Sequence[tuple[str, str]], name: str) -> dict[str, Measured]:
    options = BUILT_IN[name]
    grade = build_grader(options)
    requests = [GradingRequest(name, text, gold) for text, gold in rows]
    found = {}
    if name == "math_verify":
        found["math-verify itself"] = measure_inline(rows, make_library_grader())

    def grade_in_process(text: str, gold: str) -> object:
        read = text_for_grader(options, text)
        return read if isinstance(read, Verdict) else grade(read, gold)

    found["grader in process"] = measure_inline(rows, grade_in_process)
    for processes in (1, 2):
        found[f"pool, {processes} worker{'s'[: processes - 1]}"] = asyncio.run(measure_pool(requests, processes))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=4000)
    parser.add_argument("--grader", default="math_verify", choices=sorted({"exact", "math_dapo", "math_verify"}))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    rows, source = read_rows(args.responses)
    rounds = [one_round(rows, args.grader) for _ in range(args.rounds)]
    figures = {
        name: {unit: statistics.median(one[name][unit] for one in rounds) for unit in rounds[0][name]}
        for name in rounds[0]
    }
    limit = next(iter(figures.values()))["per_s"]
    table = Table(title=f"{args.grader}, {source}")
    for heading in ("", "verdicts/s", "of the first", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in figures.items():
        one["of_the_first"] = one["per_s"] / limit
        cells = (one[f"p{number}_ms"] for number in (50, 95, 99))
        table.add_row(name, f"{one['per_s']:,.0f}", f"{one['of_the_first']:.2f}", *(f"{cell:.2f}" for cell in cells))
    Console().print(table)
    if args.json:
        setting = {"responses": args.responses, "grader": args.grader, "rounds": args.rounds, "rows": source}
        packages = ("math-verify",) if args.grader == "math_verify" else ()
        content = {"setting": setting, "machine": machine(*packages), "figures": figures}
        write_json(args.json, content)


if __name__ == "__main__":
    main()
