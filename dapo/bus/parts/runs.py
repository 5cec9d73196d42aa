"""The run's record, its events, who is alive, and who holds which role."""

import json
from typing import Any

from dapo.bus.errors import BusError, Fenced
from dapo.bus.parts.part import Core
from dapo.bus.server.connection import block

_SCAN = 1000

EVENTS = 10_000
"""Events kept, about; older ones leave."""


class Runs(Core):
    async def create_run(self, spec_json: str, run_dir: str, created_at: str) -> None:
        """Writes the run's record, once. Raises BusError when the run exists with another spec."""
        created = await self.control.run(self.control.client.hsetnx, self.keys.run, "spec", spec_json)
        if not created and await self.read_spec() != spec_json:
            raise BusError(f"run {self.run_id!r} exists with another spec: choose another run id")
        await self._control("HSET", self.keys.run, "run_dir", run_dir, "created_at", created_at)

    async def read_spec(self) -> str:
        """The RunSpec as JSON. Raises BusError for a run that was never created."""
        spec = await self.control.run(self.control.client.hget, self.keys.run, "spec")
        if spec is None:
            raise BusError(
                f"no run {self.run_id!r} at {self.control.shown}: create it, or check DAPO_RUN_ID and DAPO_REDIS_URL"
            )
        return spec.decode()

    async def set_run_state(self, state: str, message: str = "") -> None:
        await self._control("HSET", self.keys.run, "state", state, "message", message)

    async def read_run(self) -> dict[str, str]:
        """Fields spec, run_dir, created_at, state, message, as far as they are set."""
        fields = await self.control.run(self.control.client.hgetall, self.keys.run)
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def delete_work(self) -> None:
        """Deletes all that the run has on its servers but its record, events, ledger and dead letters.

        For a run that has ended: its services must have stopped, and nothing can continue it any more.
        """
        lasting = {key.encode() for key in (self.keys.run, self.keys.events, self.keys.ledger, self.keys.dead)}
        for server in {self.control.url: self.control, self.payload.url: self.payload}.values():
            cursor = 0
            while True:
                cursor, found = await server.run(server.client.scan, cursor, match=f"{self.keys.prefix}*", count=_SCAN)
                if gone := [key for key in found if key not in lasting]:
                    await server.run(server.client.unlink, *gone)
                if not cursor:
                    break

    async def emit_event(self, kind: str, data: dict[str, Any]) -> None:
        await self._control(
            "XADD",
            self.keys.events,
            "MAXLEN",
            "~",
            EVENTS,
            "*",
            "kind",
            kind,
            "data",
            json.dumps(data, allow_nan=False),
        )

    async def read_events(self, after: str, *, block_s: float) -> list[tuple[str, str, dict[str, Any]]]:
        """(id, kind, data) of up to 100 events after id `after` ("0": from the start)."""
        found = await self._read(self.keys.events, after, block_s=block_s, count=100)
        return [(entry, fields[b"kind"].decode(), json.loads(fields[b"data"])) for entry, fields in found]

    async def _read(self, key: str, after: str, *, block_s: float, count: int) -> list[tuple[str, dict[bytes, bytes]]]:
        async def read(block_ms: int | None) -> list[tuple[str, dict[bytes, bytes]]]:
            client = self.control.once if block_ms else self.control.client
            found = await self.control.run(client.xread, {key: after}, count=count, block=block_ms)
            return [(entry.decode(), fields) for _, entries in found for entry, fields in entries]

        return await block(read, block_s)

    async def heartbeat(self, role: str, worker_id: str, ttl_s: float = 10) -> None:
        """States that this instance of the worker lives for another `ttl_s`."""
        await self._control("SET", self.keys.heartbeat(role, worker_id), self.instance, "PX", round(ttl_s * 1000))

    async def acquire_epoch(self, role: str) -> int:
        """Takes the role over: every later write under an older epoch raises Fenced and changes nothing."""
        return int(await self._control("INCR", self.keys.epoch(role)))

    async def check_epoch(self, role: str, epoch: int) -> None:
        """Before an effect outside the server, which cannot be fenced by itself. Raises Fenced."""
        newest = int(await self.control.run(self.control.client.get, self.keys.epoch(role)) or 0)
        if newest != epoch:
            raise Fenced(
                f"{role} epoch {epoch}, newest {newest}: another process has taken this role over; this one must stop"
            )
