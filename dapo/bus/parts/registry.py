"""Which workers are alive, where they are reached, and who holds a role that only one may hold."""

from collections.abc import Sequence

from dapo.bus.errors import Fenced, LeaseHeld
from dapo.bus.index import Desired
from dapo.bus.keys import ORCHESTRATOR, WORKERS
from dapo.bus.parts.part import Context, Part, new_nonce

HEARTBEAT_TTL_S = 10.0
"""How long a worker that is not heard counts as alive."""
_PROMPT = 0.25
"""After this share of the time for which it holds, a beat or a renewal that is not answered is sent again."""


class Registry(Part):
    """The workers of a run: whether they live, and what they say of their own hosts.

    Keys: `alive:<role>:<worker id>`, whose value names the instance and which expires; `address:<what>`, which expires.
    Promises: a worker is alive exactly while its key exists. A process that was started anew under an old id replaces
    its predecessor with its first beat. What it has to `advertise` is said again with each beat.
    Restart: of a process, nothing is kept in it. Of Redis, beats come back with the next of each worker; one that died
    meanwhile stays dead, because the time of expiry is kept on disk.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._advertised: dict[str, str] = {}

    def advertise(self, what: str, address: str) -> None:
        """From now on each beat of this process announces it."""
        self._advertised[what] = address

    async def beat(self, role: str, worker_id: str, ttl_s: float = HEARTBEAT_TTL_S) -> None:
        """States that this instance of the worker lives for another `ttl_s`."""
        beat = (self._keys.heartbeat(role, worker_id), self._context.instance, "PX", round(ttl_s * 1000))
        await self._control.promptly(lambda: self._write("SET", *beat), ttl_s * _PROMPT)
        for what, address in self._advertised.items():
            await self.announce(what, address, ttl_s)

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
        """States for another `ttl_s` that `what` is reached at `address` (`host:port`), or some other text of it."""
        await self._write("SET", self._keys.address(what), address, "PX", round(ttl_s * 1000))

    async def find(self, what: str) -> str | None:
        """What was last announced of `what`, such as its address; None where nobody says anything now."""
        found = await self._control.run(self._control.client.get, self._keys.address(what))
        return None if found is None else found.decode()


class Lease(Part):
    """The fencing epochs of the roles that one process holds at a time (keys.HELD_ROLES), and the orchestrator's lease.

    Keys: `epoch:<role>`, a number that only grows; `lease`, who leads the run, which expires.
    Promises: a write that carries an epoch is refused, and changes nothing, once a newer one was acquired.
    Restart: a process that starts anew acquires a new epoch. Of Redis, the epochs are on disk; where they were lost, or
    deleted with the run, every holder is fenced off for good: the epochs of orchestrator and workers are never below
    the server's time in ms, and a learner that finds an epoch in its files asks for one above it.
    """

    async def acquire(self, role: str, *, above: int = 0) -> int:
        """Takes the role over: every later write under an older epoch raises Fenced and changes nothing. The new epoch
        is also greater than `above`."""
        return int(await self._script("acquire_epoch", new_nonce(), role, above))

    async def take(
        self,
        holder: str,
        ttl_s: float,
        desired: Desired | None = None,
        before: str | None = None,
        *,
        workers_stay: bool = False,
    ) -> int:
        """Leads the run from now on, for `ttl_s` or until it is renewed, under a new epoch of the orchestrator and of
        its workers: those of the leader before write nothing more, unless they are to stay (until `dismiss`).
        `desired`: what is wanted of the run, from the same moment, unless something else than `before` is wanted by
        then: nothing that came later is overwritten. Raises LeaseHeld, with nothing done, while another holder leads
        it."""
        wanted = (desired or "", before or "", "stay" if workers_stay else "")
        reply = await self._script("take_lease", new_nonce(), holder, round(ttl_s * 1000), *wanted)
        if isinstance(reply, bytes):
            raise LeaseHeld(f"run {self._context.run_id} is led by {reply.decode()}")
        return int(reply)

    async def dismiss(self, epoch: int) -> None:
        """The workers of before write nothing more; those of this epoch of the orchestrator do. Raises Fenced."""
        await self._write_as(ORCHESTRATOR, epoch, "SET", self._keys.epoch(WORKERS), epoch)

    async def renew(self, holder: str, epoch: int, ttl_s: float) -> None:
        """For another `ttl_s` from now on, also after it has lapsed, if nobody has taken it since. Raises Fenced."""
        lease = (self._keys.lease, holder, "PX", round(ttl_s * 1000))
        await self._control.promptly(lambda: self._write_as(ORCHESTRATOR, epoch, "SET", *lease), ttl_s * _PROMPT)

    async def release(self, epoch: int) -> None:
        """Others may lead the run. Raises Fenced."""
        await self._write_as(ORCHESTRATOR, epoch, "PEXPIRE", self._keys.lease, 0)

    async def newest(self, role: str) -> int:
        """The epoch of whoever took the role over last; 0 where nobody did."""
        return int(await self._control.run(self._control.client.get, self._keys.epoch(role)) or 0)

    async def check(self, role: str, epoch: int) -> None:
        """Before an effect outside the server, which cannot be fenced by itself. Raises Fenced; also where the term is
        over for which this process acts."""
        held = [(name, mine) for name, mine in (self._control.term, (role, epoch)) if name]
        found = await self._control.run(self._control.client.mget, [self._keys.epoch(name) for name, _ in held])
        for (name, mine), newest in zip(held, found, strict=True):
            if int(newest or 0) != mine:
                raise Fenced(
                    f"{name} epoch {mine}, newest {int(newest or 0)}: another process has taken this role over; this"
                    " one must stop"
                )
