"""`python -m services.generator`: one generator of the run that DAPO_RUN_ID names, until SIGTERM."""

import asyncio
import logging
import os
import signal
from pathlib import Path

from dapo.bus import Bus, BusError
from dapo.process import die_with_parent
from dapo.spec import RunSpec
from dapo.telemetry import logs
from services.generator.server import ServerError, SglangServer, pick_device
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator

log = logging.getLogger(__name__)


async def generate(worker_id: str, run_dir: Path) -> None:
    """Runs until cancelled. Raises BusError, ServerError, OSError (the model's files), ValueError (its template)."""
    redis_url = os.environ["DAPO_REDIS_URL"]
    payload_url = os.environ.get("DAPO_PAYLOAD_URL")
    bus = await Bus.connect(redis_url, os.environ["DAPO_RUN_ID"], payload_url=payload_url)
    try:
        spec = RunSpec.model_validate_json(await bus.read_spec())
        device = pick_device(spec.resources.generator.device)
        codec = await asyncio.to_thread(PromptCodec, spec.model.path)
        server = SglangServer(spec, device=device, log_path=run_dir / "logs" / f"{worker_id}-sglang.log")
        await Generator(bus, spec, worker_id, server, codec).run()
    finally:
        await bus.close()


async def run_until_stopped(worker_id: str, run_dir: Path) -> None:
    work = asyncio.create_task(generate(worker_id, run_dir))
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
    # The tokenizers library warns, and runs fewer threads, once a process that used it forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    fatal: list[BaseException] = []
    try:
        asyncio.run(run_until_stopped(worker_id, Path(os.environ["DAPO_RUN_DIR"])))
    except* (BusError, ServerError, OSError, ValueError) as group:
        fatal.extend(group.exceptions)
    for error in fatal:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        log.error("%s ends: %s", worker_id, error)
    return 1 if fatal else 0


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Everything is closed by now; taking torch apart in order costs seconds on a busy machine.
    os._exit(status)
