"""A run's record and its events."""

import asyncio
import json

from dapo.bus.errors import BusError
from dapo.bus.index import Desired
from dapo.bus.keys import HELD_ROLES
from dapo.bus.parts.part import Part
from dapo.contracts.events import Event, known_event

_EVENTS_AT_ONCE = 100
EVENTS = 10_000
"""Events kept, about; older ones leave."""


class Runs(Part):
    """The run itself: what it was asked to do, how it stands, what happened.

    Keys: `run`, a hash of spec, run_dir, created_at, state, message, desired, history; `events`, a stream of
    about 10,000 entries.
    Promises: a spec is written once, and replaced only by the orchestrator with which the run goes on; events have one
    order, that of their ids.
    Restart: all of it is in Redis and outlives the run's end.
    """

    async def create(self, spec_json: str, run_dir: str, created_at: str, history: str = "") -> None:
        """Writes the run's record, once. Raises BusError when the run exists with another spec."""
        created = await self._write("HSETNX", self._keys.run, "spec", spec_json)
        if not created and await self.spec() != spec_json:
            raise BusError(f"run {self._context.run_id!r} exists with another spec: choose another run id")
        await self._write("HSET", self._keys.run, "run_dir", run_dir, "created_at", created_at, "history", history)

    async def renew(self, spec_json: str, run_dir: str, created_at: str, epoch: int, history: str = "") -> None:
        """Writes the record of a run that goes on, perhaps with a changed spec. Raises Fenced."""
        fields = ("spec", spec_json, "run_dir", run_dir, "created_at", created_at, "history", history)
        await self._write_as("orchestrator", epoch, "HSET", self._keys.run, *fields)

    async def spec(self) -> str:
        """The RunSpec as JSON. Raises BusError for a run that was never created."""
        spec = await self._control.run(self._control.client.hget, self._keys.run, "spec")
        if spec is None:
            raise BusError(
                f"no run {self._context.run_id!r} at {self._control.shown}: create it, or check DAPO_RUN_ID and"
                " DAPO_REDIS_URL"
            )
        return spec.decode()

    async def want(self, desired: Desired, epoch: int) -> None:
        """What is to become of the run from now on. Raises Fenced."""
        await self._write_as("orchestrator", epoch, "HSET", self._keys.run, "desired", desired)

    async def set_state(self, state: str, message: str, epoch: int) -> None:
        """Raises Fenced."""
        fields = ("state", state, "message", message)
        await self._write_as("orchestrator", epoch, "HSET", self._keys.run, *fields)

    async def read(self) -> dict[str, str]:
        """Fields spec, run_dir, created_at, state, message, desired, history, as far as they are set."""
        fields = await self._control.run(self._control.client.hgetall, self._keys.run)
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def delete_work(self) -> None:
        """Deletes all that the run has on its servers but its record, events, ledger, dead letters and epochs.

        For a run that has ended: its services must have stopped, and it can be continued from a checkpoint only.
        """
        keys = self._keys
        await self._unlink_all(but=(keys.run, keys.events, keys.ledger, keys.dead, keys.epoch(""), keys.lease))

    async def delete(self) -> None:
        """Deletes everything of the run on its servers. As `delete_work`, and nobody can ask about it any more."""
        # Last what the deletion itself is fenced by.
        fences = [self._keys.epoch(role) for role in HELD_ROLES]
        await self._unlink_all(but=(*fences, self._keys.lease))
        await self._script("delete_keys", self._keys.lease, *fences)

    async def emit(self, event: Event) -> None:
        """Raises ValueError for a number that is not finite: JSON has none."""
        data = json.dumps(event.data(), allow_nan=False)
        await self._append(self._keys.events, EVENTS, "kind", event.kind, "data", data)

    async def read_events(self, after: str, *, block_s: float) -> list[tuple[str, Event]]:
        """(id, event) of up to 100 events after id `after` ("0": from the start). Those of kinds that this release does
        not know are left out."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + block_s
        while True:
            left = max(0.0, deadline - clock())
            found = await self._context.read_stream(self._keys.events, after, block_s=left, count=_EVENTS_AT_ONCE)
            parsed = [
                (entry, known_event(fields[b"kind"].decode(), json.loads(fields[b"data"]))) for entry, fields in found
            ]
            known = [(entry, event) for entry, event in parsed if event is not None]
            if known or not found:
                return known
            after = found[-1][0]
