"""`python -m tests.support.simulator.worker`: a real generator whose engine is a simulated one, beside it as a process.

Environment as services.generator, and that of processes.py.
"""

import json
import os
import sys

from dapo.bus import BusError
from dapo.records.folder import RunFolder
from dapo.spec import RunSpec
from dapo.worker import WorkerEnvironment, run_worker
from services.generator.engine.server import ServerError
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator
from tests.support.simulator.processes import COUNTS, OPTIONS, EngineProcess
from tests.support.simulator.responses import SimulatorOptions


async def generate(environment: WorkerEnvironment) -> None:
    bus = await environment.connect()
    try:
        spec = RunSpec.model_validate_json(await bus.runs.spec())
        logs = RunFolder(environment.run_dir).logs
        logs.mkdir(parents=True, exist_ok=True)
        options = SimulatorOptions(**json.loads(os.environ[OPTIONS]))
        server = EngineProcess(options, logs / f"{environment.worker_id}-engine.log", os.environ.get(COUNTS))
        await Generator(bus, spec, environment.worker_id, server, PromptCodec(spec.model.path)).run()
    finally:
        await bus.close()


if __name__ == "__main__":
    sys.exit(run_worker(generate, (BusError, ServerError)))
