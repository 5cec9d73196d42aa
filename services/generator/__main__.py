"""`python -m services.generator`: one generator of the run that DAPO_RUN_ID names, until SIGTERM."""

import asyncio
import logging
import os

from dapo.bus import BusError
from dapo.spec import RunSpec
from dapo.worker import WorkerEnvironment, run_worker
from services.generator.engine.server import ServerError, SglangServer, pick_device
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator


async def generate(environment: WorkerEnvironment) -> None:
    """Runs until cancelled. Raises BusError, ServerError, OSError (the model's files), ValueError (its template)."""
    bus = await environment.connect()
    try:
        spec = RunSpec.model_validate_json(await bus.read_spec())
        generator = spec.resources.generator
        device = pick_device(generator.device, generator.tensor_parallel)
        codec = await asyncio.to_thread(PromptCodec, spec.model.path)
        log_path = environment.run_dir / "logs" / f"{environment.worker_id}-sglang.log"
        server = SglangServer(spec, device=device, log_path=log_path)
        evaluates = os.environ.get("DAPO_EVALUATES") == "1"
        await Generator(bus, spec, environment.worker_id, server, codec, evaluates=evaluates).run()
    finally:
        await bus.close()


if __name__ == "__main__":
    # The tokenizers library warns, and runs fewer threads, once a process that used it forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    status = run_worker(generate, (BusError, ServerError, OSError, ValueError))
    logging.shutdown()
    # Everything is closed by now; taking torch apart in order costs seconds on a busy machine.
    os._exit(status)
