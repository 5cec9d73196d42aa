"""`python -m tests.support.simulator.agent`: an agent for the service beside it (service.py), whose generators have a
simulated engine. Flags as `dapo agent`, environment as the service's."""

import sys

from services.agent import __main__ as agent
from tests.support.simulator.processes import simulate

if __name__ == "__main__":
    simulate()
    sys.exit(agent.main())
