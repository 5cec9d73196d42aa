"""`python -m tests.support.simulator.worker`: a real generator whose engine is a simulated one, beside it as a process.

Environment as services.generator, and that of processes.py.
"""

import json
import os

from dapo.bus import BusError
from dapo.host.addresses import bind_collectives
from dapo.host.devices import device_names
from dapo.records.folder import RunFolder
from dapo.spec import RunSpec
from dapo.worker import WorkerEnvironment, leave, run_worker
from services.generator.engine.server import ServerError
from services.generator.tokens import PromptCodec, leave_torch_out
from services.generator.worker import Generator
from tests.support.simulator.processes import OPTIONS, EngineProcess
from tests.support.simulator.responses import SimulatorOptions


async def generate(environment: WorkerEnvironment) -> None:
    bus = await environment.connect()
    try:
        spec = RunSpec.model_validate_json(await bus.runs.spec())
        logs = RunFolder(environment.run_dir).logs
        logs.mkdir(parents=True, exist_ok=True)
        options = SimulatorOptions(**json.loads(os.environ[OPTIONS]))
        server = EngineProcess(options, logs / f"{environment.worker_id}-engine.log")
        bind_collectives(environment.address)
        codec = PromptCodec(spec.model.path)
        generator = Generator(bus, spec, environment.worker_id, server, codec, devices=device_names())
        if (metrics := environment.export_metrics(bus)) is not None:
            metrics.engine = lambda: generator.supervisor.url
        await generator.run()
    finally:
        await bus.close()


if __name__ == "__main__":
    leave_torch_out()
    leave(run_worker("generator", generate, (BusError, ServerError)))
