"""`python -m tests.support.simulator.worker`: a real generator beside a simulated engine, for tests that kill it.

Environment as services.generator, and SIM_STEP_S, SIM_MEAN_TOKENS.
"""

import asyncio
import os

from dapo.bus import Bus
from dapo.host.processes import die_with_parent
from dapo.spec import RunSpec
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator
from tests.support.simulator.engine import SimulatedServer, SimulatorOptions


async def generate() -> None:
    bus = await Bus.connect(os.environ["DAPO_REDIS_URL"], os.environ["DAPO_RUN_ID"])
    spec = RunSpec.model_validate_json(await bus.runs.spec())
    options = SimulatorOptions(step_s=float(os.environ["SIM_STEP_S"]), mean_tokens=float(os.environ["SIM_MEAN_TOKENS"]))
    worker_id = os.environ["DAPO_WORKER_ID"]
    await Generator(bus, spec, worker_id, SimulatedServer(options), PromptCodec(spec.model.path)).run()


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(generate())
