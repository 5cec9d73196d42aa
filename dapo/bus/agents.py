"""Agents: processes on any machine that take workers of runs, one at a time each; for all services of a server."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, NamedTuple, Self

from pydantic import TypeAdapter

import dapo
from dapo.bus.errors import BusError
from dapo.bus.keys import AGENTS, Keys
from dapo.bus.parts.part import new_nonce
from dapo.bus.server.connection import Server

log = logging.getLogger(__name__)

AGENT_TTL_S = 8.0
"""How long an agent that is not heard keeps its place."""
_OUTAGE_S = 5.0
_PROMPT = 0.25
"""After this share of the time for which it holds, a beat that is not answered is sent again."""

Standing = Literal["led", "awaits", "over"]
"""Of a run: somebody leads it, is to lead it, or nobody is."""
ReportedState = Literal["starting", "running", "exited", "failed"]


@dataclass(frozen=True)
class Agent:
    """What an agent says of itself."""

    agent_id: str
    role: str
    host: str
    """Where it is, for people."""
    gpus: int = 0
    cores: int = 0
    memory: int = 0
    """Bytes."""
    leaving: bool = False
    """It takes no worker any more."""
    release: str = dapo.__version__
    """Of dapo."""
    machine: str = ""
    """The same for all agents of a machine, also in containers with host names of their own; "": not known."""

    def __str__(self) -> str:
        return f"agent {self.agent_id} on {self.host}"


@dataclass(frozen=True)
class Order:
    """A worker of a run, as an agent is to run it. Of the agent's own host are Redis's URL, addresses and GPUs."""

    run_id: str
    worker_id: str
    role: str
    module: str
    folder: str
    """Of the run, relative to the folder that the run service and agents share."""
    gpus: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    number: str = ""
    """The worker's epoch, given with the order."""


@dataclass(frozen=True)
class Report:
    """What became of an order."""

    state: ReportedState
    code: int | None = None
    """Of an exited process the exit code, or minus the signal that ended it."""
    reason: str = ""
    """Of a process that could not be started."""
    process: str = ""
    """Tells it from others of the agent's host."""


class Known(NamedTuple):
    """An agent and what it does at this moment."""

    agent: Agent
    order: Order | None
    report: Report | None
    """None: it has not said anything of its order yet."""
    log: str
    """The end of its worker's log."""

    @property
    def free(self) -> bool:
        """Whether it takes a worker."""
        return self.order is None and not self.agent.leaving


class Placement(NamedTuple):
    """Where a worker is."""

    agent_id: str
    number: str
    role: str
    gone: str
    """Why the agent has left, where it has said so."""


class Answer(NamedTuple):
    """To an agent that beats."""

    order: Order | None
    """That it is to have; another than its own, or none, once that was taken from it."""
    stop: bool
    """The order's process is to end."""
    run: Standing
    """How the order's run stands; "led" without an order."""


@dataclass(frozen=True)
class _Packed:
    """An order, as the server has it."""

    number: str
    told: str
    """JSON."""


_AGENT, _ORDER, _REPORT, _PACKED = TypeAdapter(Agent), TypeAdapter(Order), TypeAdapter(Report), TypeAdapter(_Packed)


class NotPlaced(BusError):
    """An agent did not get a worker, as it or the worker is no longer free."""


class AgentRecords:
    """The agents of a server, and which worker of which run is with which of them.

    Keys: `dapo:agents`, a set of ids; `dapo:agents:<id>`, a hash that expires (what it is, its order, what it reports);
    of a run `placements`, a hash of JSON by worker, and `epoch:worker:<id>`, the numbers of its workers' orders.
    Promises: a worker is with one agent at most, and an agent has one worker at most, whoever places them; a process
    whose worker was withdrawn, or given to another agent, writes nothing more (keys.placed). An agent whose record
    has lapsed keeps its worker if nobody has taken it. What places and withdraws carries the epoch of the run's
    workers: an orchestrator that was replaced changes nothing. Fields that only another release knows are left out; a
    record that cannot be read is as one that is not there, which the log says once.
    Restart: placements are in Redis, so whoever leads the run next finds its workers; agents beat on.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._unreadable: set[str] = set()
        """Whose records cannot be read, as far as the log has said so."""

    @classmethod
    async def connect(cls, url: str, outage_s: float = _OUTAGE_S) -> Self:
        """Raises BusUnavailable."""
        return cls(await Server.connect(url, outage_s))

    async def close(self) -> None:
        await self._server.close()

    # -- for agents

    async def beat(
        self, agent: Agent, held: Order | None = None, report: Report | None = None, log: str = ""
    ) -> Answer:
        """States for another AGENT_TTL_S that the agent lives, what it has and what became of that; `log` "": as
        before. Raises BusError."""
        told = ("", "", "", "") if held is None else (_packed(held), held.number, held.worker_id, _dumped(report))
        args = (agent.agent_id, round(AGENT_TTL_S * 1000), _dumped(agent), *told, log if held is not None else "")
        prefix = _prefix(held)
        order, stop, standing = await self._server.promptly(
            lambda: self._server.script("beat_agent", prefix, *args), AGENT_TTL_S * _PROMPT
        )
        return Answer(self._readable(agent.agent_id, order) if order else None, bool(stop), standing.decode())

    async def clear(self, agent_id: str, order: Order) -> None:
        """The agent has no process of the order any more, and is free."""
        await self._server.script("clear_agent", _prefix(order), agent_id, order.number)

    async def leave(self, agent_id: str, held: Order | None, why: str) -> None:
        """The agent is there no more, and has no process of its order any more."""
        order = ("", "") if held is None else (held.worker_id, held.number)
        await self._server.script("leave_agent", _prefix(held), agent_id, *order, why)

    # -- for those that place workers

    async def agents(self) -> list[Known]:
        """Those that live, by id."""
        ids = await self._server.run(self._server.client.smembers, AGENTS)
        known = await self._read(sorted(one.decode(errors="replace") for one in ids))
        if gone := [one for one in ids if one.decode(errors="replace") not in known]:
            # One that was only late says so with its next beat.
            await self._server.run(self._server.client.srem, AGENTS, *gone)
        return [one for one in known.values() if one is not None]

    async def placements(self, run_id: str) -> dict[str, Placement]:
        """By worker."""
        stored = await self._server.run(self._server.client.hgetall, Keys(run_id).placements)
        return {worker.decode(): _placement(json.loads(value)) for worker, value in stored.items()}

    async def find(self, placements: Iterable[Placement]) -> dict[str, Known]:
        """The agents of these workers that live, by id."""
        known = await self._read(sorted({one.agent_id for one in placements}))
        return {agent_id: one for agent_id, one in known.items() if one is not None}

    async def place(self, agent_id: str, order: Order, term: int) -> str:
        """Give a worker to an agent: the order's number. `term`: epoch of the run's workers. Raises NotPlaced, Fenced
        and other BusErrors."""
        told = _dumped(order)
        args = (new_nonce(), term, agent_id, order.worker_id, order.role, told)
        reply = (await self._server.script("place_worker", Keys(order.run_id).prefix, *args)).decode()
        if not reply.isdecimal():
            raise NotPlaced(f"{order.worker_id} of run {order.run_id} is not placed: it {reply}")
        return reply

    async def withdraw(self, run_id: str, worker_id: str, number: str, term: int, *, final: bool) -> None:
        """Have a worker's process end. `final`: it writes nothing from now on, and the worker can be placed anew; its
        agent is free once its process is gone. Raises Fenced."""
        args = (term, worker_id, number, int(final))
        await self._server.script("withdraw_worker", Keys(run_id).prefix, *args)

    async def _read(self, ids: Iterable[str]) -> dict[str, Known | None]:
        """Those that live; None: its record cannot be read."""
        ids = list(ids)
        pipeline = self._server.client.pipeline(transaction=False)
        for agent_id in ids:
            pipeline.hmget(f"{AGENTS}:{agent_id}", "agent", "order", "report", "log")
        rows = await self._server.run(pipeline.execute) if ids else []
        return {agent_id: self._known(agent_id, *row) for agent_id, row in zip(ids, rows, strict=True) if row[0]}

    def _known(
        self, agent_id: str, agent: bytes, order: bytes | None, report: bytes | None, tail: bytes | None
    ) -> Known | None:
        try:
            return Known(
                _AGENT.validate_json(agent),
                _unpacked(order) if order else None,
                _REPORT.validate_json(report) if report else None,
                (tail or b"").decode(errors="replace"),
            )
        except ValueError as error:
            self._say_unreadable(f"agent {agent_id}", error)
            return None

    def _readable(self, agent_id: str, order: bytes) -> Order | None:
        try:
            return _unpacked(order)
        except ValueError as error:
            self._say_unreadable(f"the order of agent {agent_id}", error)
            return None

    def _say_unreadable(self, what: str, error: ValueError) -> None:
        if what not in self._unreadable:
            self._unreadable.add(what)
            log.warning("%s cannot be read, perhaps of another release than %s: %s", what, dapo.__version__, error)


def _prefix(held: Order | None) -> str:
    """What the scripts' keys begin with; without an order they use none of a run."""
    return Keys(held.run_id).prefix if held is not None else f"{AGENTS}:"


def _dumped(value: Agent | Order | Report | None) -> str:
    return "" if value is None else json.dumps(asdict(value))


def _packed(order: Order) -> str:
    """As the server has it."""
    return json.dumps(asdict(_Packed(order.number, _dumped(order))))


def _unpacked(stored: bytes) -> Order:
    """Raises ValueError."""
    packed = _PACKED.validate_json(stored)
    return replace(_ORDER.validate_json(packed.told), number=packed.number)


def _placement(stored: Mapping[str, str]) -> Placement:
    return Placement(stored["agent"], stored["number"], stored["role"], stored.get("gone", ""))
