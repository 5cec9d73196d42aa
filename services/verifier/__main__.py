"""`python -m services.verifier`: one verifier of the run that DAPO_RUN_ID names, until SIGTERM."""

import sys

from dapo.bus import BusError
from dapo.spec import RunSpec
from dapo.worker import WorkerEnvironment, run_worker
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.pool import GraderStartError
from services.verifier.worker import Verifier


async def verify(environment: WorkerEnvironment) -> None:
    """Runs until cancelled. Raises BusError, GraderStartError."""
    bus = await environment.connect()
    try:
        spec = RunSpec.model_validate_json(await bus.runs.spec())
        environment.export_metrics(bus)
        grading = Grading(spec.named_graders, spec.reward)
        await Verifier(bus, grading, spec, environment.worker_id).run()
    finally:
        await bus.close()


if __name__ == "__main__":
    sys.exit(run_worker("verifier", verify, (BusError, GraderStartError, ValueError)))
