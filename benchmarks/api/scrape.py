"""What a scrape of the run service costs while many runs go on.

    python benchmarks/api/scrape.py [--runs 100] [--repeats 30] [--json FILE]

So many runs go on in this process, with everything but workers: each has its driver, its record and its ledger in one
Redis, and a step with a number for every metric. What is timed is all that GET /metrics does behind its door: asking
Redis, collecting, writing the text. Shown are the median of the time that it takes and of the CPU time of this process
meanwhile, less what the runs themselves take in as long, which is measured before; and how large the answer is, plain
and packed. The same again for a service without runs.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.machine import machine
from dapo.bus.index import RunIndex
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.host.files import write_json
from dapo.telemetry import exposition
from dapo.telemetry.metrics import METRICS
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.metrics.collector import Collector
from services.orchestrator.queue.machine import Machine
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.waiting import eventually

_MEMORY = 2**50
_CALM_S = 5.0
_BEGUN_S = 300.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def spec_in(folder: Path) -> str:
    """Of a run that waits for its workers."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "none-such"}')
    (folder / "d.jsonl").write_text('{"prompt": "p", "answer": "a"}\n')
    return yaml.safe_dump(
        {
            "name": "scraped",
            "model": {"path": str(model)},
            "data": {"path": str(folder / "d.jsonl"), "max_prompt_tokens": 8},
            "sampling": {"group_size": 4, "max_response_tokens": 8},
            "reward": {"overlong_buffer_tokens": 3},
            "training": {"steps": 100, "prompts_per_step": 4},
            "resources": {"redis": {"memory_mib": 64}, "generator": {"device": "cpu"}, "learner": {"device": "cpu"}},
        }
    )


async def begin(service: RunService, spec: str, runs: int) -> None:
    """Returns once all are under way, each with a step."""
    for _ in range(runs):
        await service.begin(spec)
    await eventually(lambda: [one.gauges.state for one in service.under_way()] == ["starting"] * runs, _BEGUN_S)
    await eventually(lambda: all(one.gauges.workers for one in service.under_way()), _BEGUN_S)
    for driver in service.under_way():
        row = {metric.name: 0.1 + number / 3 for number, metric in enumerate(METRICS)}
        driver.gauges.rows.append(row | {"step": 1})  # type: ignore[attr-defined]


async def measure(collector: Collector, repeats: int) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(_CALM_S)
    calm = (time.process_time() - cpu) / (time.perf_counter() - began)
    walls, cpus = [], []
    for _ in range(repeats + 1):
        began, cpu = time.perf_counter(), time.process_time()
        found = exposition.answer(await collector.collect())
        wall = time.perf_counter() - began
        walls.append(1e3 * wall)
        cpus.append(1e3 * (time.process_time() - cpu - calm * wall))
    # The first one counts the runs that have ended.
    packed = exposition.answer(await collector.collect(), "gzip")
    return {
        "first_ms": walls[0],
        "median_ms": statistics.median(walls[1:]),
        "cpu_ms": statistics.median(cpus[1:]),
        "kib": len(found.body) / 1024,
        "packed_kib": len(packed.body) / 1024,
        "series": sum(not line.startswith(b"#") for line in found.body.splitlines()),
    }


async def scrape(folder: Path, url: str, runs: int, repeats: int) -> dict[str, float]:
    index = await RunIndex.connect(url)
    # All of them start at once, whatever the memory of this machine.
    machine = Machine(DeviceAllocator(()), memory=_MEMORY)
    service = RunService(FakeLauncher(), state_dir=folder, redis_url=url, index=index, machine=machine)
    try:
        await begin(service, spec_in(folder), runs)
        return await measure(Collector(service, lambda: 0), repeats)
    finally:
        await service.close()
        await index.close()


async def main() -> int:
    flags = parse()
    with tempfile.TemporaryDirectory(prefix="dapo-scrape-") as top:
        root = Path(top)
        with EmbeddedValkey(Path(tempfile.mkdtemp(dir=root)), 0) as valkey:
            figures = {}
            for runs in (0, flags.runs):
                folder = Path(tempfile.mkdtemp(dir=root))
                figures[f"{runs} runs"] = await scrape(folder, valkey.url, runs, flags.repeats)
    table = Table("scrape of", "median", "CPU of the service", "first", "answer", "packed", "series")
    for name, one in figures.items():
        table.add_row(
            *(name, f"{one['median_ms']:.1f} ms", f"{one['cpu_ms']:.1f} ms", f"{one['first_ms']:.1f} ms"),
            *(f"{one['kib']:.0f} KiB", f"{one['packed_kib']:.0f} KiB", str(one["series"])),
        )
    Console().print(table)
    found: dict[str, Any] = {"machine": machine("prometheus-client", "redis"), "figures": figures}
    if flags.json is not None:
        write_json(flags.json, found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
