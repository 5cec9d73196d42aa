"""What the learner has saved of a run: waited for at its end, asked for before a stop."""

import asyncio
import logging
import secrets

from dapo.bus import BusError
from dapo.bus.keys import CHECKPOINT_WANTED, CHECKPOINT_WRITTEN
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.monitor import HealthMonitor
from services.orchestrator.runs.outcome import RunFailed

log = logging.getLogger(__name__)

_REDIS_S = 5.0
"""How long one answer of a Redis that may be gone is waited for."""
_POLL_S = 0.2


async def wait_until_complete(bus: OrchestratorBus, monitor: HealthMonitor) -> None:
    """Return once only the end mark is left in the batch log: a checkpoint covers whatever was trained. Raises
    RunFailed where the learner has left before."""
    while True:
        # Asked first: a learner that commits and leaves between the two questions has done its work.
        left = await monitor.has_left("learner")
        if await _is_complete(bus):
            return
        if left:
            raise RunFailed("the learner ended before its last checkpoint was written")
        await asyncio.sleep(_POLL_S)


async def was_complete(bus: OrchestratorBus) -> bool:
    """Whether only the end mark is left in the batch log; no, where Redis does not answer."""
    try:
        async with asyncio.timeout(_REDIS_S):
            return await _is_complete(bus)
    except (BusError, TimeoutError):
        return False


async def _is_complete(bus: OrchestratorBus) -> bool:
    left = await bus.batches.read(-1, block_s=0)
    return bool(left) and left[0].end


async def save_first(bus: OrchestratorBus, events: RunEvents, within_s: float) -> None:
    """Have the learner write a checkpoint. Where it does not, that is told: the log holds what it would have held."""
    wish = secrets.token_hex(8)
    try:
        async with asyncio.timeout(within_s):
            await events.emit(Alert(cause="stopping", message="stopping: a checkpoint is written first"))
            while await bus.registry.find(CHECKPOINT_WRITTEN) != wish:
                await bus.registry.announce(CHECKPOINT_WANTED, wish, within_s)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        message = f"no checkpoint within checkpoint.on_stop_s = {within_s:g} s: a resume trains the log again"
        await events.tell(Alert(cause="stopping", message=message))
    except BusError as error:
        log.warning("no checkpoint is written before the stop: %s", error)
