"""The end of a run: what the learner has saved is waited for, or asked for before a stop; then the end is told."""

import asyncio
import logging
import secrets
from pathlib import Path
from typing import Any

from dapo.bus import BusError
from dapo.bus.index import Desired
from dapo.bus.keys import CHECKPOINT_WANTED, CHECKPOINT_WRITTEN
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, StateChanged
from dapo.host.storage import in_words
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.monitor import HealthMonitor
from services.orchestrator.runs.outcome import INTERRUPTED, RunFailed, RunOutcome, Standing

log = logging.getLogger(__name__)

REDIS_S = 5.0
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
        async with asyncio.timeout(REDIS_S):
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
            told = "stopping: a checkpoint is written first"
            await events.emit(Alert(cause="stopping", message=told, severity="notice"))
            while await bus.registry.find(CHECKPOINT_WRITTEN) != wish:
                await bus.registry.announce(CHECKPOINT_WANTED, wish, within_s)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        message = f"no checkpoint within checkpoint.on_stop_s = {within_s:g} s: a resume trains the log again"
        await events.tell(Alert(cause="stopping", message=message))
    except BusError as error:
        log.warning("no checkpoint is written before the stop: %s", error)


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
            await asyncio.wait({archiving}, timeout=REDIS_S)
        archiving.cancel()
        await settled(archiving, "the events could not be archived")
    if bus is not None and epoch:
        # Also where the event was not told: what is wanted of the run must not outlive its end.
        try:
            async with asyncio.timeout(REDIS_S):
                await bus.runs.set_state(*outcome, epoch)
                if outcome != INTERRUPTED:
                    await bus.runs.want(Desired.STOPPED, epoch)
        except (BusError, TimeoutError) as error:
            log.warning("the end of the run could not be written to its record: %s", error)
            return False
    return answered


async def write_end(
    recorder: Recorder,
    outcome: RunOutcome,
    standing: Standing,
    restarts: int,
    elapsed_s: float,
    provenance: "asyncio.Future[None] | None",
    drawing: "asyncio.Future[Path | None]",
) -> None:
    """summary.json; beside it the other files are waited for. Raises OSError."""
    if provenance is not None:
        await settled(provenance, "provenance.json could not be written")
    summary = recorder.summary(
        state=outcome.state,
        message=outcome.message,
        ledger=standing.ledger,
        issued=standing.issued,
        restarts=restarts,
        elapsed_s=recorder.elapsed_before_s + elapsed_s,
    )
    recorder.write_summary(summary)
    await settled(drawing, "curves.png could not be drawn")


async def settled(work: "asyncio.Future[Any]", trouble: str) -> None:
    """Wait for work whose failure is only logged."""
    await asyncio.wait({work})
    if not work.cancelled() and (error := work.exception()):
        log.error("%s: %s", trouble, in_words(error), exc_info=error)
