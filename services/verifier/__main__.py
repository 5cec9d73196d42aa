"""`python -m services.verifier`: one verifier of the run that DAPO_RUN_ID names, until SIGTERM."""

import asyncio
import logging
import os
import signal
import sys

from dapo.bus import Bus, BusError
from dapo.process import die_with_parent
from dapo.spec import RunSpec
from dapo.telemetry import logs
from services.verifier.pool import GraderStartError, GradingPool
from services.verifier.worker import Verifier

log = logging.getLogger(__name__)


async def verify(worker_id: str) -> None:
    """Runs until cancelled. Raises BusError, GraderStartError."""
    payload_url = os.environ.get("DAPO_PAYLOAD_URL")
    bus = await Bus.connect(os.environ["DAPO_REDIS_URL"], os.environ["DAPO_RUN_ID"], payload_url=payload_url)
    try:
        spec = RunSpec.model_validate_json(await bus.read_spec())
        pool = GradingPool(timeout_s=spec.reward.grader_timeout_s)
        await Verifier(bus, pool, spec, worker_id).run()
    finally:
        await bus.close()


async def run_until_stopped(worker_id: str) -> None:
    work = asyncio.create_task(verify(worker_id))
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        work.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        if not stopping:
            raise


def main() -> int:
    die_with_parent()
    worker_id = os.environ["DAPO_WORKER_ID"]
    logs.configure(worker_id)
    fatal: list[BaseException] = []
    try:
        asyncio.run(run_until_stopped(worker_id))
    except* (BusError, GraderStartError, ValueError) as group:
        fatal.extend(group.exceptions)
    for error in fatal:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        log.error("%s ends: %s", worker_id, error)
    return 1 if fatal else 0


if __name__ == "__main__":
    sys.exit(main())
