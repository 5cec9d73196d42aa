"""A scrape of a run service whose Redis hangs ends before Prometheus gives it up."""

import asyncio
import os
import signal
from pathlib import Path

from benchmarks.api.scrape import begin, spec_in
from dapo.bus.index import RunIndex
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.telemetry.exposition import answer
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.metrics.collector import Collector
from services.orchestrator.queue.machine import Machine
from tests.support.orchestrator.launcher import FakeLauncher

SCRAPE_S = 10.0
"""For how long Prometheus waits."""


def test_a_scrape_ends_in_time_while_redis_hangs(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def collect(service: RunService) -> list[str]:
        async with asyncio.timeout(SCRAPE_S):
            return answer(await Collector(service, lambda: 0).collect()).body.decode().splitlines()

    async def main() -> None:
        index = await RunIndex.connect(valkey.url)
        service = RunService(
            FakeLauncher(),
            state_dir=tmp_path / "state",
            redis_url=valkey.url,
            index=index,
            machine=Machine(DeviceAllocator(()), memory=2**50),
        )
        (tmp_path / "inputs").mkdir()
        try:
            await begin(service, spec_in(tmp_path / "inputs"), 2)
            assert {"dapo_redis_up 1.0", "dapo_runs_led 2.0"} <= set(await collect(service))
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                found = set(await collect(service))
            finally:
                os.kill(valkey.pid, signal.SIGCONT)
            assert {"dapo_redis_up 0.0", "dapo_runs_led 2.0", 'dapo_runs{state="starting"} 2.0'} <= found
        finally:
            await service.close()
            await index.close()

    asyncio.run(main())
