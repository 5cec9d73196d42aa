"""Who holds a role that only one process may hold."""

from dapo.bus.errors import Fenced
from dapo.bus.parts.part import Part, new_nonce


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

    async def check(self, role: str, epoch: int) -> None:
        """Before an effect outside the server, which cannot be fenced by itself. Raises Fenced."""
        newest = int(await self._control.run(self._control.client.get, self._keys.epoch(role)) or 0)
        if newest != epoch:
            raise Fenced(
                f"{role} epoch {epoch}, newest {newest}: another process has taken this role over; this one must stop"
            )
