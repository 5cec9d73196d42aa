"""Which workers are alive, where they are reached, and who holds a role that only one may hold."""

from collections.abc import Sequence

from dapo.bus.errors import Fenced
from dapo.bus.parts.part import Part, new_nonce

HEARTBEAT_TTL_S = 10.0
"""How long a worker that is not heard counts as alive."""


class Registry(Part):
    """The workers of a run: whether they live, and what they say of their own hosts.

    Keys: `alive:<role>:<worker id>`, whose value names the instance and which expires; `address:<what>`, which expires.
    Promises: a worker is alive exactly while its key exists. A process that was started anew under an old id replaces
    its predecessor with its first beat.
    Restart: of a process, nothing is kept in it. Of Redis, beats come back with the next of each worker; one that died
    meanwhile stays dead, because the time of expiry is kept on disk.
    """

    async def beat(self, role: str, worker_id: str, ttl_s: float = HEARTBEAT_TTL_S) -> None:
        """States that this instance of the worker lives for another `ttl_s`."""
        beat = self._keys.heartbeat(role, worker_id)
        await self._write("SET", beat, self._context.instance, "PX", round(ttl_s * 1000))

    async def beat_first(self, role: str, worker_id: str, ttl_s: float = HEARTBEAT_TTL_S) -> None:
        """As `beat`, where no instance of the worker is alive; otherwise nothing."""
        beat = self._keys.heartbeat(role, worker_id)
        await self._write("SET", beat, self._context.instance, "PX", round(ttl_s * 1000), "NX")

    async def alive(self, role: str, worker_ids: Sequence[str]) -> set[str]:
        """Those of the workers that are alive at this moment."""
        if not worker_ids:
            return set()
        beats = [self._keys.heartbeat(role, worker_id) for worker_id in worker_ids]
        found = await self._control.run(self._control.client.mget, beats)
        return {worker_id for worker_id, beat in zip(worker_ids, found, strict=True) if beat is not None}

    async def announce(self, what: str, address: str, ttl_s: float) -> None:
        """States that `what` is reached at `address` (`host:port`) for another `ttl_s`."""
        await self._write("SET", self._keys.address(what), address, "PX", round(ttl_s * 1000))

    async def find(self, what: str) -> str | None:
        """The address at which `what` was last said to be reached; None where nobody says so now."""
        found = await self._control.run(self._control.client.get, self._keys.address(what))
        return None if found is None else found.decode()


class Lease(Part):
    """The fencing epochs of the roles that one process holds at a time: orchestrator and learner.

    Keys: `epoch:<role>`, a number that only grows.
    Promises: a write that carries an epoch is refused, and changes nothing, once a newer one was acquired.
    Restart: a process that starts anew acquires a new epoch. Of Redis, the epochs are on disk; where they were lost,
    every holder is fenced off, and one that finds an epoch in its files asks for one above it.
    """

    async def acquire(self, role: str, *, above: int = 0) -> int:
        """Takes the role over: every later write under an older epoch raises Fenced and changes nothing. The new epoch
        is also greater than `above`."""
        return int(await self._script("acquire_epoch", new_nonce(), role, above))

    async def newest(self, role: str) -> int:
        """The epoch of whoever took the role over last; 0 where nobody did."""
        return int(await self._control.run(self._control.client.get, self._keys.epoch(role)) or 0)

    async def check(self, role: str, epoch: int) -> None:
        """Before an effect outside the server, which cannot be fenced by itself. Raises Fenced."""
        newest = await self.newest(role)
        if newest != epoch:
            raise Fenced(
                f"{role} epoch {epoch}, newest {newest}: another process has taken this role over; this one must stop"
            )
