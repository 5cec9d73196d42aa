"""`python -m tests.support.simulator.service`: the run service, with engines simulated and all else as it is.

Flags as `python -m services.orchestrator`; the environment of processes.py, which generators inherit. Where it has
engines take the weights, the learner sends them.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from dapo.spec.workloads import Workload
from services.orchestrator import __main__ as service
from services.orchestrator.launch.launcher import RunTarget
from services.orchestrator.launch.local import LocalLauncher
from tests.support.simulator.processes import RECEIVED

_MODULES = {"generator": "tests.support.simulator.worker"}
if RECEIVED not in os.environ:
    _MODULES["learner"] = "tests.support.simulator.learner"


class SimulatingLauncher(LocalLauncher):
    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        await super().apply(run, [replace(one, module=_MODULES.get(one.role, one.module)) for one in workloads])


if __name__ == "__main__":
    service.LocalLauncher = SimulatingLauncher  # type: ignore[misc]
    sys.exit(service.main())
