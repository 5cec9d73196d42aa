"""The launcher `local`: a run's processes as children of this one, each the leader of its own session.

The children get DAPO_* variables (see plan_processes), write to logs/<worker id>.log and die with this process.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dapo.host.processes import PARENT_VARIABLE, end_sessions, read_process
from dapo.spec.plan import ProcessPlan
from services.orchestrator.launch.supervisor import Child

log = logging.getLogger(__name__)


class LaunchError(RuntimeError):
    """A process could not be started, or outlived its kill."""


class LocalLauncher:
    """Starts each plan once; `stop` leaves none of their processes, nor of their descendants."""

    def __init__(self, run_dir: Path) -> None:
        self._logs = run_dir / "logs"
        self.children: list[Child] = []

    async def start(self, plans: Sequence[ProcessPlan]) -> list[Child]:
        """Raises LaunchError when the operating system refuses a process."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for plan in plans:
            self.children.append(await self._spawn(plan))
        return self.children

    async def _spawn(self, plan: ProcessPlan) -> Child:
        path = self._logs / f"{plan.worker_id}.log"
        env = {**os.environ, **plan.env, PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        env.pop("DAPO_API_TOKEN", None)
        with path.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    plan.module,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=env,
                    start_new_session=True,
                )
            except OSError as error:
                raise LaunchError(f"cannot start {plan.worker_id} ({plan.module}): {error}") from error
        log.info("started %s as process %d", plan.worker_id, process.pid)
        entry = read_process(process.pid)
        return Child(plan.role, plan.worker_id, process, entry.started if entry else 0, path)

    async def stop(self) -> None:
        """End every process group within about ten seconds. Raises LaunchError naming pids that would not die."""
        left = await end_sessions({child.process.pid: child.started for child in self.children})
        if left:
            raise LaunchError(f"processes {left} outlived SIGKILL")
        await asyncio.gather(*(child.process.wait() for child in self.children))
