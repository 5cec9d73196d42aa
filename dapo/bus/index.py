"""The runs of a service, for all of its instances: which there are, what is wanted of them, and who leads them."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Self

from dapo.bus.keys import RUNS, Keys
from dapo.bus.ledger import counts
from dapo.bus.parts.decisions import steps_trained
from dapo.bus.server.connection import Server

_OUTAGE_S = 5.0
_ANSWER_MS = 60_000
"""How long what became of a wish can be read."""


class Desired(StrEnum):
    RUNNING = "running"
    """Whoever can is to lead it."""
    STOPPED = "stopped"
    """It has ended, or is to end; nobody takes it up by himself."""
    CANCELLED = "cancelled"
    """As STOPPED; whoever leads it is to end it at once."""


class Listed(NamedTuple):
    """What does not change of a run."""

    run_id: str
    run_dir: str
    created_at: str
    """ISO 8601, UTC."""
    name: str


class Record(NamedTuple):
    """What there is of a run at this moment."""

    desired: Desired | None
    """None where Redis knows of none."""
    holder: str | None
    """Who leads it; None: nobody whose lease has not lapsed."""
    history: str
    """As in run.json (dapo.records.identity): tells the Redis that has the run's latest word from others."""
    state: str
    message: str
    wishes: Mapping[str, str] = {}
    """What its leader is asked to do, by id: `wish`."""


class Progress(NamedTuple):
    """How far a run is."""

    spec: str | None
    """JSON; None: its record is not written yet."""
    trained: int
    """Steps."""
    ledger: dict[str, int]
    """State -> groups in it."""


class RunIndex:
    """One for the runs on a server.

    Keys: `dapo:runs`, a hash of JSON by run id. What changes is with the run, where its own fence guards it: `run`
    (fields desired, history, state, message) and `lease`, and what its leader is asked for: `wishes`, a hash of texts
    by id, and for a minute each one's `answer`.
    Promises: as of a Bus; it acts for no term, so it changes nothing of a run but what is wanted of it.
    Restart: all of it is in Redis.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def server(self) -> Server:
        """On which it and its runs are; closed with it."""
        return self._server

    @classmethod
    async def connect(cls, url: str) -> Self:
        """Raises BusUnavailable."""
        return cls(await Server.connect(url, _OUTAGE_S))

    async def add(self, run: Listed) -> None:
        await self._server.run(self._server.client.hset, RUNS, run.run_id, json.dumps(run._asdict()))

    async def remove(self, run_id: str) -> None:
        await self._server.run(self._server.client.hdel, RUNS, run_id)

    async def unlist(self, run_ids: Sequence[str]) -> None:
        """As `remove`, but for those that somebody leads or is to lead by now."""
        for run_id in run_ids:
            await self._server.script("unlist", Keys(run_id).prefix, run_id)

    async def find(self, run_id: str) -> Listed | None:
        stored = await self._server.run(self._server.client.hget, RUNS, run_id)
        return None if stored is None else Listed(**json.loads(stored))

    async def runs(self) -> list[Listed]:
        """Oldest first. Those that have ended leave in time (`unlist`): their folders tell of them."""
        stored = await self._server.run(self._server.client.hgetall, RUNS)
        found = [Listed(**json.loads(value)) for value in stored.values()]
        return sorted(found, key=lambda run: (run.created_at, run.run_id))

    async def read(self, run_ids: Sequence[str]) -> dict[str, Record]:
        """By id; also of runs that are not listed."""
        pipeline = self._server.client.pipeline(transaction=False)
        for keys in map(Keys, run_ids):
            pipeline.hmget(keys.run, "desired", "history", "state", "message")
            pipeline.get(keys.lease)
            pipeline.hgetall(keys.wishes)
        found = await self._server.run(pipeline.execute)
        rows = zip(run_ids, found[::3], found[1::3], found[2::3], strict=True)
        return {run_id: _record(fields, holder, wishes) for run_id, fields, holder, wishes in rows}

    async def progress(self, run_ids: Sequence[str]) -> dict[str, Progress]:
        """By id; also of runs that are not listed."""
        pipeline = self._server.client.pipeline(transaction=False)
        for keys in map(Keys, run_ids):
            pipeline.hget(keys.run, "spec")
            pipeline.hget(keys.log, "trained")
            pipeline.hgetall(keys.ledger)
        found = await self._server.run(pipeline.execute)
        rows = zip(run_ids, found[::3], found[1::3], found[2::3], strict=True)
        return {
            run_id: Progress(None if spec is None else spec.decode(), steps_trained(trained), counts(ledger))
            for run_id, spec, trained, ledger in rows
        }

    async def want(self, run_id: str, desired: Desired) -> None:
        keys = Keys(run_id)
        await self._server.small_write(keys.prefix, "HSET", keys.run, "desired", desired)

    async def wish(self, run_id: str, wish_id: str, text: str) -> None:
        """Ask a run's leader for something, whoever that is when it looks."""
        keys = Keys(run_id)
        await self._server.small_write(keys.prefix, "HSET", keys.wishes, wish_id, text)

    async def now_ms(self) -> int:
        """By the server's clock, which is the same for all."""
        seconds, microseconds = await self._server.run(self._server.client.time)
        return 1000 * int(seconds) + int(microseconds) // 1000

    async def take(self, run_id: str, wish_id: str) -> bool:
        """Whether it is the caller's from now on, to carry out or to take back: of several who take it, one's.

        Raises BusUnavailable where that is not known; nobody may have it then.
        """
        keys = Keys(run_id)
        return bool(await self._server.run(self._server.once.hdel, keys.wishes, wish_id))

    async def answer(self, run_id: str, wish_id: str, text: str) -> None:
        keys = Keys(run_id)
        await self._server.small_write(keys.prefix, "SET", keys.answer(wish_id), text, "PX", _ANSWER_MS)

    async def read_answer(self, run_id: str, wish_id: str) -> str | None:
        """None: there is none yet."""
        found = await self._server.run(self._server.client.get, Keys(run_id).answer(wish_id))
        return None if found is None else found.decode()

    async def close(self) -> None:
        await self._server.close()


def _record(fields: Sequence[bytes | None], holder: bytes | None, wishes: Mapping[bytes, bytes]) -> Record:
    desired, history, state, message = ("" if field is None else field.decode() for field in fields)
    return Record(
        Desired(desired) if desired else None,
        None if holder is None else holder.decode(),
        history,
        state,
        message,
        {wish_id.decode(): text.decode() for wish_id, text in wishes.items()},
    )
