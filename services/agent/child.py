"""The one worker of an agent, as its child process."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from dapo.bus.agents import Order, Report
from dapo.bus.keys import placed
from dapo.host.children import start_logged
from dapo.host.files import tail
from dapo.host.processes import describe_exit, end_sessions, read_process
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder
from dapo.worker import host_environment

log = logging.getLogger(__name__)

_LOG_LINES = 30
_LOG_BYTES = 8192


class Child:
    """One order and its process, from the start to the end. Promises: `end` leaves no process of it, nor any of its
    descendants; nothing is started twice. Nothing of it survives the agent: the process ends with it."""

    def __init__(self, order: Order, run_dir: Path) -> None:
        self.order = order
        self._run_dir = run_dir
        self._log = RunFolder(run_dir).logs / f"{order.worker_id}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._started = 0
        self._failure = ""
        self._ending: asyncio.Task[None] | None = None

    async def start(self, redis_url: str, devices: Sequence[str], address: str) -> None:
        """What keeps it from starting is in its report."""
        order = self.order
        environment = {
            **order.environment,
            "DAPO_RUN_ID": order.run_id,
            "DAPO_WORKER_ID": order.worker_id,
            "DAPO_TERM": order.number,
            "DAPO_TERM_ROLE": placed(order.worker_id),
            **host_environment(self._run_dir, redis_url, devices, address),
        }
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._process = await start_logged(order.module, environment, self._log)
        except OSError as error:
            return self.refuse(f"cannot start {order.worker_id} ({order.module}): {in_words(error)}")
        entry = read_process(self._process.pid)
        self._started = entry.started if entry else 0
        log.info("started %s of run %s as process %d", order.worker_id, order.run_id, self._process.pid)

    def refuse(self, why: str) -> None:
        """It is not started."""
        log.error("%s of run %s: %s", self.order.worker_id, self.order.run_id, why)
        self._failure = why

    @property
    def runs(self) -> bool:
        """Its process lives, or is being ended."""
        ending = self._ending is not None and not self._ending.done()
        return ending or (self._process is not None and self._process.returncode is None)

    @property
    def ended_by_itself(self) -> bool:
        return self._ending is None and self._process is not None and self._process.returncode is not None

    def report(self) -> Report:
        if self._process is None:
            return Report("failed" if self._failure else "starting", reason=self._failure)
        code, process = self._process.returncode, f"{self._process.pid}-{self._started}"
        if self._failure:
            return Report("failed", code, self._failure, process)
        return Report("running" if self.runs or code is None else "exited", code, process=process)

    def log_end(self) -> str:
        """The last lines of its log; "" of one that was not started, whose log may be anywhere."""
        if self._process is None:
            return ""
        try:
            return tail(self._log, _LOG_LINES)[-_LOG_BYTES:]
        except OSError as error:
            return in_words(error)

    def begin_end(self, why: str) -> None:
        """Have the process end: TERM, and KILL where that does not do. Returns at once."""
        if self._ending is None and self._process is not None:
            log.info("%s of run %s ends: %s", self.order.worker_id, self.order.run_id, why)
            self._ending = asyncio.create_task(self._end(self._process))

    async def ended(self) -> None:
        """Returns once its process is gone."""
        if self._ending is not None:
            await asyncio.shield(self._ending)
        elif self._process is not None:
            await self._process.wait()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if left := await end_sessions({process.pid: self._started}):
            return self.refuse(f"processes {left} outlived SIGKILL")
        code = await process.wait()
        log.info("%s %s", self.order.worker_id, describe_exit(code))
