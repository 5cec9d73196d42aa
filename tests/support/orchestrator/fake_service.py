"""`python -m tests.support.orchestrator.fake_service`: the run service, whose workers are no processes.

Flags as `python -m services.orchestrator`. Runs wait for weights that nobody sends, until they are stopped. Wrong
tokens are refused as such, however many come.
"""

import sys

from services.orchestrator import __main__ as service
from services.orchestrator import launchers
from services.orchestrator.security import guard
from tests.support.orchestrator.launcher import FakeLauncher

if __name__ == "__main__":
    launchers.LocalLauncher = lambda devices: FakeLauncher(devices=devices)  # type: ignore[misc, assignment]
    guard._FAILURES_PER_MINUTE = 10**9
    sys.exit(service.main())
