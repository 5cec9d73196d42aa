"""The last things of a run: its end is told and kept, whatever does not answer any more."""

import asyncio
import logging
from typing import Any

from dapo.bus import BusError
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import StateChanged
from dapo.host.storage import in_words
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.outcome import RunOutcome

log = logging.getLogger(__name__)

_REDIS_S = 5.0
"""How long one answer of a Redis that may be gone is waited for."""


async def tell_end(
    outcome: RunOutcome,
    events: RunEvents,
    archiving: "asyncio.Task[None] | None",
    bus: OrchestratorBus | None,
    epoch: int,
) -> bool:
    """Whether Redis took it, as an event and in the run's record; watchers are told in any case. `archiving` is over
    when this returns."""
    answered = await events.tell_end(StateChanged(state=outcome.state, message=outcome.message))
    if archiving is not None:
        if answered:
            await asyncio.wait({archiving}, timeout=_REDIS_S)
        archiving.cancel()
        await settled(archiving, "the events could not be archived")
    if answered and bus is not None:
        try:
            async with asyncio.timeout(_REDIS_S):
                await bus.runs.set_state(*outcome, epoch)
        except (BusError, TimeoutError) as error:
            log.warning("the end of the run could not be written to its record: %s", error)
            return False
    return answered


async def settled(work: "asyncio.Future[Any]", trouble: str) -> None:
    """Wait for work whose failure is only logged."""
    await asyncio.wait({work})
    if not work.cancelled() and (error := work.exception()):
        log.error("%s: %s", trouble, in_words(error), exc_info=error)
