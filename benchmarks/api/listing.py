"""How long `GET /v1/runs` takes where a thousand runs have ended, of all of them and of the first page.

    python benchmarks/api/listing.py [--runs 1000] [--repeats 30] [--json FILE]

A run service answers for recorded folders that are written first, and its Redis knows of them what it knows of runs
that have ended under a service. It is measured once the index has let go of them, as it does within seconds of an end.
Each round asks for every thing once, so that what else the machine does falls on all alike: `GET /healthz`, which is
what a request costs at least; one scandir of the folder of runs, in this process; one ended run; the list's first page,
and all of it. Shown are medians, and what one request costs the service in CPU time. The goal is 50 ms for all of the
list.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.machine import machine
from benchmarks.survival import platform
from dapo.bus.index import Desired, Listed, RunIndex
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.host.files import write_json
from dapo.records.identity import read_identity
from services.orchestrator.fleet.valkey import FOLDER
from tests.support.page.recorded import record_run

GOAL_MS = 50.0
_SETTLED_S = 120.0
Measured = dict[str, list[float]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="that have ended; 1,000 are a page at most")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


async def leave_in_redis(url: str, runs: dict[str, Path]) -> None:
    """As the last moment of each run leaves it: listed, and wanted no more."""
    index = await RunIndex.connect(url)
    for run_id, folder in runs.items():
        identity = read_identity(folder)
        await index.add(Listed(run_id, str(folder.resolve()), identity.created_at, "recorded"))
        await index.want(run_id, Desired.STOPPED)
    await index.close()


async def until_settled(url: str) -> None:
    index = await RunIndex.connect(url)
    async with asyncio.timeout(_SETTLED_S):
        while await index.runs():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(1.0)
    await index.close()


def redis_of(service: psutil.Process) -> str:
    """URL of the Valkey that the service has started."""
    ports = {at.laddr.port for child in service.children() for at in child.net_connections() if at.status == "LISTEN"}
    (port,) = ports
    return f"redis://127.0.0.1:{port}/0"


def measure(works: dict[str, Callable[[], object]], service: psutil.Process, repeats: int) -> dict[str, Measured]:
    """Milliseconds of wall time, and of the service's CPU time, of each round."""
    found: dict[str, Measured] = {name: {"wall_ms": [], "service_cpu_ms": []} for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            cpu, wall = sum(service.cpu_times()[:2]), time.perf_counter()
            work()
            wall, cpu = time.perf_counter() - wall, sum(service.cpu_times()[:2]) - cpu
            found[name]["wall_ms"].append(1e3 * wall)
            found[name]["service_cpu_ms"].append(1e3 * cpu)
    return found


def summary(measured: dict[str, Measured]) -> dict[str, dict[str, float]]:
    """The CPU time is counted in ticks of 10 ms, so only its mean says anything."""
    return {
        name: {
            "median_ms": statistics.median(one["wall_ms"]),
            "slowest_ms": max(one["wall_ms"]),
            "service_cpu_ms": statistics.mean(one["service_cpu_ms"]),
        }
        for name, one in measured.items()
    }


def main() -> int:
    flags = parse()
    with tempfile.TemporaryDirectory(prefix="dapo-listing-") as folder:
        root = Path(folder)
        folders = [root / "runs" / f"{one:06d}" for one in range(flags.runs)]
        ids = [record_run(one, number, 1) for number, one in enumerate(folders)]
        with EmbeddedValkey(root / FOLDER, 0) as valkey:
            asyncio.run(leave_in_redis(valkey.url, dict(zip(ids, folders, strict=True))))
        with (
            platform.Service(root, platform.REAL, {}) as service,
            httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http,
        ):

            def ask(path: str) -> httpx.Response:
                return http.get(path).raise_for_status()

            asyncio.run(until_settled(redis_of(psutil.Process(service.process.pid))))
            assert len(ask(f"/v1/runs?limit={flags.runs}").json()["runs"]) == flags.runs
            works: dict[str, Callable[[], object]] = {
                "GET /healthz": lambda: ask("/healthz"),
                "scandir": lambda: [entry.name for entry in os.scandir(root / "runs")],
                "GET /v1/runs/{id}": lambda: ask(f"/v1/runs/{ids[-1]}"),
                "GET /v1/runs": lambda: ask("/v1/runs"),
                f"GET /v1/runs?limit={flags.runs}": lambda: ask(f"/v1/runs?limit={flags.runs}"),
            }
            figures = summary(measure(works, psutil.Process(service.process.pid), flags.repeats))
    base = figures["GET /healthz"]["median_ms"]
    table = Table("asked", "median", "slowest", "CPU of the service", "of GET /healthz")
    for name, one in figures.items():
        one["of_healthz"] = one["median_ms"] / base
        table.add_row(
            *(name, f"{one['median_ms']:.1f} ms", f"{one['slowest_ms']:.1f} ms", f"{one['service_cpu_ms']:.1f} ms"),
            f"{one['of_healthz']:.1f}",
        )
    Console().print(table)
    longest = figures[f"GET /v1/runs?limit={flags.runs}"]["median_ms"]
    Console().print(
        f"all {flags.runs}: {longest:.1f} ms, {longest / GOAL_MS:.2f} of the {GOAL_MS:.0f} ms that are the goal"
    )
    found: dict[str, Any] = {"machine": machine("fastapi", "uvicorn"), "runs": flags.runs, "figures": figures}
    if flags.json is not None:
        write_json(flags.json, found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
