"""What the run service's answers cost, and whether many of them slow a training run.

    python benchmarks/api/load.py [--requests 10000] [--streams 200] [--seconds 20] [--pairs 6] [--json FILE]

A run trains with simulated engines, which decode responses of one length at a fixed pace; no group is left out, so that
steps are alike, and all else is as it is. Phases alternate: calm, then under load: --requests a minute of what scripts
and pages ask for, evenly spread, and --streams watchers of the run's events. Shown is how long a step takes when calm
as a share of what it takes under load, of the medians over all steps, with the 95 % interval that resampling the steps
gives, and, as what chance alone does, the same of every other calm phase against the rest. The load comes from this
machine, too: what this process itself computes for it is shown, as it takes that from the run.

Then each kind of request is sent alone, one after the other, with the run going on: CPU time of the service for each
request, which other work on the machine hardly changes, beside `GET /healthz`, which is what a request costs at least.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.api.sockets import Connection, watch
from benchmarks.machine import machine
from benchmarks.survival import platform, runs
from dapo.host.files import write_json
from dapo.records.folder import RunFolder

GOAL = 0.98
"""How long a step takes when calm, of what it takes under load."""
_RESAMPLED = 2000
_CONNECTIONS = 16
_WARM_STEPS = 5
_READY_S = 180.0
_ALONE = 400
"""Requests of each kind, one after the other."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="a minute")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--pairs", type=int, default=6, help="of phases")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def kinds(run_id: str, step: int) -> dict[str, str]:
    """What is asked for, by name. `step`: the newest that a page has seen."""
    run = f"/v1/runs/{run_id}"
    return {
        "healthz": "/healthz",
        "whoami": "/v1/whoami",
        "run": run,
        "list": "/v1/runs",
        "pipeline": f"{run}/pipeline",
        "metrics since": f"{run}/metrics?since_step={step}",
        "metrics": f"{run}/metrics",
    }


def mix(run_id: str, step: int) -> Iterator[str]:
    """Half are states of the run, the rest what a page reads beside."""
    paths = kinds(run_id, step)
    names = ("run", "run", "pipeline", "run", "list", "run", "metrics since", "whoami")
    return cycle([paths[name] for name in names])


@dataclass
class Phase:
    loaded: bool
    step_s: list[float]
    """How long each of its steps took."""
    service_cpu: float
    """Seconds of CPU time a second."""
    own_cpu: float
    """The same of this process."""
    requests_per_minute: float = 0.0
    events: int = 0
    latencies_ms: list[float] = field(default_factory=list)


class Run:
    """The run that trains, and the service that it trains under."""

    def __init__(self, service: platform.Service, run: dict[str, Any]) -> None:
        self.id = run["id"]
        self.process = psutil.Process(service.process.pid)
        parts = urlsplit(service.url)
        self.address = (str(parts.hostname), int(parts.port or 0))
        self._metrics = RunFolder(Path(run["run_dir"])).metrics

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._metrics.read_text().splitlines()] if self._metrics.exists() else []

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    async def warm(self) -> None:
        """Returns once it trains. Raises TimeoutError."""
        async with asyncio.timeout(_READY_S):
            while len(self.rows()) < _WARM_STEPS:  # noqa: ASYNC110
                await asyncio.sleep(0.5)


async def send(run: Run, per_minute: float, until: float, phase_latencies: list[float]) -> int:
    """So many requests, evenly spread, over some connections; how many were answered by then."""
    paths, done, due = mix(run.id, len(run.rows())), 0, time.monotonic()

    async def one_connection() -> None:
        nonlocal due, done
        connection = await Connection.open(run.address)
        while max(due, time.monotonic()) < until:
            mine, due = due, due + 60.0 / per_minute
            await asyncio.sleep(max(0.0, mine - time.monotonic()))
            sent = time.monotonic()
            await connection.get(next(paths))
            done += 1
            phase_latencies.append(1e3 * (time.monotonic() - sent))
        await connection.close()

    async with asyncio.timeout(until - time.monotonic() + 30.0), asyncio.TaskGroup() as group:
        for _ in range(_CONNECTIONS):
            group.create_task(one_connection())
    return done


async def phase(run: Run, flags: argparse.Namespace, *, loaded: bool) -> Phase:
    seen = [0]
    path = f"/v1/runs/{run.id}/events?after={time.time_ns() // 1_000_000}"
    watching = [asyncio.create_task(watch(run.address, path, seen)) for _ in range(flags.streams if loaded else 0)]
    await asyncio.sleep(1.0 if not loaded else 3.0)
    latencies: list[float] = []
    before, cpu, own, began = len(run.rows()), run.cpu_s(), time.process_time(), time.monotonic()
    seen[0] = done = 0
    if loaded:
        done = await send(run, flags.requests, began + flags.seconds, latencies)
    else:
        await asyncio.sleep(flags.seconds)
    took, rows = time.monotonic() - began, run.rows()
    cpu, own = run.cpu_s() - cpu, time.process_time() - own
    for one in watching:
        one.cancel()
    for one in watching:
        with suppress(asyncio.CancelledError):
            await one
    return Phase(
        loaded=loaded,
        step_s=[after["time_s"] - one["time_s"] for one, after in pairwise(rows[before - 1 :])],
        service_cpu=cpu / took,
        own_cpu=own / took,
        requests_per_minute=60 * done / took,
        events=seen[0],
        latencies_ms=latencies,
    )


async def alone(run: Run) -> dict[str, dict[str, float]]:
    """Each kind of request by itself, less what the service computes for the run meanwhile."""
    connection, found = await Connection.open(run.address), {}
    cpu, began = run.cpu_s(), time.monotonic()
    await asyncio.sleep(5.0)
    idle = (run.cpu_s() - cpu) / (time.monotonic() - began)
    for name, path in kinds(run.id, len(run.rows())).items():
        latencies = []
        cpu, began = run.cpu_s(), time.monotonic()
        for _ in range(_ALONE):
            sent = time.monotonic()
            await connection.get(path)
            latencies.append(1e3 * (time.monotonic() - sent))
        cpu, took = run.cpu_s() - cpu, time.monotonic() - began
        found[name] = {
            "cpu_ms": max(0.0, 1e3 * (cpu - idle * took) / _ALONE),
            "median_ms": statistics.median(latencies),
        }
    await connection.close()
    return found


async def measure(run: Run, flags: argparse.Namespace) -> tuple[list[Phase], dict[str, dict[str, float]]]:
    console = Console(stderr=True)
    await run.warm()
    phases = []
    for number in range(2 * flags.pairs + 1):
        phases.append(await phase(run, flags, loaded=number % 2 == 1))
        one = phases[-1]
        console.print(
            f"{'load' if one.loaded else 'calm'}: {statistics.median(one.step_s):.3f} s a step, the service "
            f"{one.service_cpu:.2f} and this process {one.own_cpu:.2f} of a core, {one.requests_per_minute:.0f} "
            f"requests/min, {one.events} events",
            soft_wrap=True,
        )
    return phases, await alone(run)


def ratio(calm: list[Phase], other: list[Phase]) -> dict[str, float]:
    """Median step of `calm` over that of `other`, with its 95 % interval."""
    rng = np.random.default_rng(0)
    samples = [np.array([step for one in phases for step in one.step_s]) for phases in (calm, other)]
    drawn = [np.median(rng.choice(sample, (_RESAMPLED, len(sample))), axis=1) for sample in samples]
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    return {"median": float(np.median(samples[0]) / np.median(samples[1])), "low": float(low), "high": float(high)}


def summary(phases: list[Phase]) -> dict[str, Any]:
    calm, loaded = phases[::2], phases[1::2]
    latencies = sorted(latency for one in loaded for latency in one.latencies_ms)
    requests = statistics.fmean(one.requests_per_minute for one in loaded) / 60
    cpu = {
        "calm": statistics.fmean(one.service_cpu for one in calm),
        "load": statistics.fmean(one.service_cpu for one in loaded),
    }
    return {
        "step_s": {"calm": [one.step_s for one in calm], "load": [one.step_s for one in loaded]},
        "ratio": ratio(calm, loaded),
        "chance": ratio(calm[::2], calm[1::2]),
        "requests_per_minute": 60 * requests,
        "events_per_s": statistics.fmean(one.events for one in loaded),
        "service_cpu": cpu,
        "service_cpu_ms_per_request": 1e3 * (cpu["load"] - cpu["calm"]) / requests,
        "own_cpu": statistics.fmean(one.own_cpu for one in loaded),
        "latency_ms": {"median": statistics.median(latencies), "p99": latencies[int(0.99 * len(latencies))]},
    }


def show(found: dict[str, Any], each: dict[str, dict[str, float]]) -> None:
    console = Console()
    for name, words in (
        ("ratio", f"a calm step, of one under load; the goal is {GOAL}"),
        ("chance", "by chance alone"),
    ):
        one = found[name]
        console.print(f"{words}: {one['median']:.3f} ({one['low']:.3f} to {one['high']:.3f})")
    cpu = found["service_cpu"]
    console.print(
        f"the service takes {cpu['calm']:.3f} of a core when calm and {cpu['load']:.3f} under load: "
        f"{found['service_cpu_ms_per_request']:.2f} ms a request, streams included; this process {found['own_cpu']:.3f}"
    )
    latency = found["latency_ms"]
    console.print(
        f"answers take {latency['median']:.1f} ms in the median, {latency['p99']:.1f} ms at the 99th percentile"
    )
    table = Table("request", "CPU of the service", "of healthz", "median, one after the other")
    for name, one in each.items():
        ratio = one["cpu_ms"] / max(each["healthz"]["cpu_ms"], 1e-9)
        table.add_row(name, f"{one['cpu_ms']:.2f} ms", f"{ratio:.1f}", f"{one['median_ms']:.1f} ms")
    console.print(table)


def main() -> int:
    flags = parse()
    with tempfile.TemporaryDirectory(prefix="dapo-load-") as folder:
        root = Path(folder)
        toy = platform.make_toy(root / "toy")
        spec = runs.simulated(toy, 100_000, checkpoint={"every_steps": 1000}, algorithm={"dynamic_sampling": False})
        spec["resources"]["generator"] = {"replicas": 1}
        spec["resources"]["verifier"] = {"replicas": 1}
        engine = runs.simulator(step_s=0.02, mean_tokens=16, sigma=1e-6, max_running=16)
        with platform.Service(root, platform.SIMULATED, engine["environment"]) as service:
            created = service.client.create(yaml.safe_dump(spec))
            phases, each = asyncio.run(measure(Run(service, dict(created)), flags))
            service.client.stop(created["id"])
    found = summary(phases)
    show(found, each)
    figures = {
        "machine": machine("fastapi", "uvicorn"),
        "setting": {"streams": flags.streams, "seconds": flags.seconds},
    }
    figures |= {"load": found, "each": each}
    if flags.json is not None:
        write_json(flags.json, figures)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
