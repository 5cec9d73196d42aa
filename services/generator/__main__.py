"""`python -m services.generator`: one generator of the run that DAPO_RUN_ID names, until SIGTERM."""

import asyncio
import os

from dapo.bus import BusError
from dapo.host.addresses import bind_collectives
from dapo.host.devices import device_names
from dapo.records.folder import RunFolder
from dapo.spec import RunSpec
from dapo.spec.workloads import EVALUATES
from dapo.worker import WorkerEnvironment, leave, run_worker
from services.generator.engine.server import ServerError, SglangServer, engine_device
from services.generator.tokens import PromptCodec, leave_torch_out
from services.generator.worker import Generator


async def generate(environment: WorkerEnvironment) -> None:
    """Runs until cancelled. Raises BusError, ServerError, OSError (the model's files), ValueError (its template)."""
    bus = await environment.connect()
    try:
        spec = RunSpec.model_validate_json(await bus.runs.spec())
        wanted = spec.resources.generator
        device = engine_device(wanted.device, wanted.tensor_parallel)
        codec = await asyncio.to_thread(PromptCodec, spec.model.path)
        log_path = RunFolder(environment.run_dir).logs / f"{environment.worker_id}-sglang.log"
        metrics = environment.export_metrics(bus)
        server = SglangServer(spec, device=device, log_path=log_path, metrics=metrics is not None)
        evaluates = os.environ.get(EVALUATES) == "1"
        devices = device_names() if device == "cuda" else ()
        # For the engine, which inherits it.
        bind_collectives(environment.address)
        generator = Generator(bus, spec, environment.worker_id, server, codec, evaluates=evaluates, devices=devices)
        if metrics is not None:
            metrics.engine = lambda: generator.supervisor.url
        await generator.run()
    finally:
        await bus.close()


if __name__ == "__main__":
    # The tokenizers library warns, and runs fewer threads, once a process that used it forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    leave_torch_out()
    leave(run_worker("generator", generate, (BusError, ServerError, OSError, ValueError)))
