"""Generators and their simulated engines as processes that can be killed and stopped, each by itself."""

import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import cast

from dapo.host.ports import HOST, free_port
from dapo.host.processes import child_environment, describe_exit, python_command
from dapo.spec.workloads import MODULES
from services.generator.engine.client import EngineClient, EngineEndpoint
from services.generator.engine.server import ServerError
from tests.support.paths import REPO
from tests.support.simulator.responses import SimulatorOptions

OPTIONS = "SIMULATOR_OPTIONS"
"""Environment variable of a generator: fields of SimulatorOptions for its engines, a JSON object."""
COUNTS = "SIMULATOR_COUNTS"
"""Environment variable of a generator: the folder where each of its engines counts its tokens; none where absent."""
RECEIVED = "SIMULATOR_RECEIVED"
"""Environment variable of a run service: the folder where each engine says which weights it was sent; where absent,
none are."""
_POLL_S = 0.05
_HEALTH_S = 5.0


def simulate() -> None:
    """From now on plans of this process name the simulated modules, and agents take them."""
    modules = cast(dict[str, str], MODULES)
    modules["generator"] = "tests.support.simulator.worker"
    if RECEIVED not in os.environ:
        modules["learner"] = "tests.support.simulator.learner"


class EngineProcess:
    """Implements EngineServer: a simulated engine in a process of its own, which dies with this one."""

    def __init__(self, options: SimulatorOptions, log: Path) -> None:
        self._options = options
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> EngineEndpoint:
        await asyncio.sleep(self._options.start_s)
        port = free_port()
        command = python_command("tests.support.simulator.engine", "--port", str(port))
        command += ["--options", json.dumps(dataclasses.asdict(self._options))]
        for flag, variable in (("--count-in", COUNTS), ("--receive-in", RECEIVED)):
            if folder := os.environ.get(variable):
                command += [flag, folder]
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command, cwd=REPO, env=child_environment(), stdout=output, stderr=output
            )
        endpoint = EngineEndpoint(f"http://{HOST}:{port}", "", "")
        client = EngineClient(endpoint)
        try:
            while not await client.healthy(timeout_s=_HEALTH_S):
                if self._process.returncode is not None:
                    raise ServerError(await self.wait_exit())
                await asyncio.sleep(_POLL_S)
        finally:
            await client.close()
        return endpoint

    async def wait_exit(self) -> str:
        assert self._process is not None
        return f"the simulated engine {describe_exit(await self._process.wait())}"

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def start_worker(
    redis_url: str, run_id: str, worker_id: str, run_dir: Path, **options: float
) -> asyncio.subprocess.Process:
    """A generator with a simulated engine of these SimulatorOptions."""
    environment = {
        **os.environ,
        "DAPO_REDIS_URL": redis_url,
        "DAPO_RUN_ID": run_id,
        "DAPO_WORKER_ID": worker_id,
        "DAPO_RUN_DIR": str(run_dir),
        OPTIONS: json.dumps({"step_s": 0.05, "mean_tokens": 30.0} | options),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.simulator.worker", env=environment, cwd=REPO
    )
