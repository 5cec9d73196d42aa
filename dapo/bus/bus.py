"""The bus: everything the services say to each other, over one Redis (and one for payloads, if so wished)."""

import secrets
from typing import Self

from dapo.bus.keys import Keys
from dapo.bus.parts.batches import Batches
from dapo.bus.parts.dead_letters import DeadLetters
from dapo.bus.parts.decisions import Decisions
from dapo.bus.parts.garbage import Garbage
from dapo.bus.parts.groups import Groups
from dapo.bus.parts.part import Context
from dapo.bus.parts.payloads import Payloads
from dapo.bus.parts.registry import Lease, Registry
from dapo.bus.parts.runs import Runs
from dapo.bus.parts.streams import Streams
from dapo.bus.parts.weights import Weights
from dapo.bus.server.connection import Server, Term
from dapo.bus.server.outage import Outage

_PROCESS = secrets.token_hex(6)
_OUTAGE_S = 5.0


class Bus:
    """One run's view of the server. Safe for concurrent use within one event loop, and bound to that loop.

    Its parts, each a map of its own keys and promises:
    `runs` (record, events), `lease` (epochs), `registry` (who is alive), `groups` (prompt to decision), `streams`
    (consuming), `payloads` (blobs), `batches` (write-ahead log), `weights` (the weight channel's control),
    `decisions` (what the orchestrator's successor must know), `dead_letters`, and `garbage` (sweeping, which groups and
    batches do by themselves).

    Keys: all of a run begin with `dapo:{<run id>}:` (see Keys).
    Promises: whatever must happen together is one Lua script; a call that failed has done all or nothing; what a
    newer orchestrator or learner has taken over, an older one can no longer write, nor can who acts for it (`act_for`).
    Restart: a process keeps nothing but its connections and which deliveries are in doubt (see Streams). Redis has all
    else in its append-only file.

    A service is given no Bus but the facade of its role (dapo/bus/roles.py).
    """

    def __init__(self, control: Server, payload: Server, run_id: str, instance: str) -> None:
        """Raises ValueError for a run id that could not stand inside a key."""
        self.control_server = control
        self.payload_server = payload
        self.run_id = run_id
        self.keys = Keys(run_id)
        context = Context(control, payload, self.keys, run_id, instance)
        self.runs = Runs(context)
        self.lease = Lease(context)
        self.registry = Registry(context)
        self.payloads = Payloads(context)
        self.dead_letters = DeadLetters(context)
        self.garbage = Garbage(context, self.payloads)
        self.groups = Groups(context, self.payloads, self.garbage, self.dead_letters)
        self.streams = Streams(context, self.registry, self.dead_letters)
        self.batches = Batches(context, self.garbage)
        self.decisions = Decisions(context)
        self.weights = Weights(context, self.registry)

    @classmethod
    async def connect(
        cls,
        url: str,
        run_id: str,
        *,
        payload_url: str | None = None,
        instance: str = _PROCESS,
        outage_s: float = _OUTAGE_S,
    ) -> Self:
        """Connects and loads the scripts. Servers that go away later are waited for, `outage_s` at most.

        `instance` tells a worker from its predecessor of the same id; all buses of one process share theirs.
        Raises BusUnavailable naming the URL (redacted) and the cure.
        """
        control = Server(url, outage_s)
        payload = control if payload_url in (None, url) else Server(payload_url, outage_s)
        bus = cls(control, payload, run_id, instance)
        try:
            await control.check()
            await control.load_scripts()
            if payload is not control:
                await payload.check()
                await payload.load_scripts()
        except BaseException:
            await bus.close()
            raise
        return bus

    def act_for(self, role: str, epoch: int) -> None:
        """From now on every script, and with that every write but the delivery of entries, is refused (Fenced) once a
        newer epoch of the role was acquired. Blobs on a server of their own are not: no epoch is known there."""
        self.control_server.term = Term(role, epoch)

    @property
    def last_outage(self) -> Outage | None:
        """The last time in which the server of streams and records did not answer; None before the first is over."""
        return self.control_server.outages.last

    def give_up(self) -> None:
        """From now on commands fail at once where a server does not answer, instead of waiting for it."""
        for server in (self.control_server, self.payload_server):
            server.outages.limit_s = 0.0

    async def close(self) -> None:
        await self.control_server.close()
        if self.payload_server is not self.control_server:
            await self.payload_server.close()
