"""`python -m tests.support.simulator.service`: the run service, with engines simulated and all else as it is.

Flags as `python -m services.orchestrator`; the environment of processes.py, which generators inherit. Where it has
engines take the weights, the learner sends them.
"""

import sys

from services.orchestrator import __main__ as service
from tests.support.simulator.processes import simulate

if __name__ == "__main__":
    simulate()
    sys.exit(service.main())
