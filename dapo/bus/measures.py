"""What is counted of runs for whoever measures them: a few commands a run, in one round trip for all on a server."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dapo.bus.keys import COMPLETIONS, EVALUATIONS, METRICS_ADDRESS, PROMPTS, SCORED, Keys
from dapo.bus.ledger import counts
from dapo.bus.server.connection import Server
from dapo.v1 import messages_pb2 as pb

STREAMS = (PROMPTS, EVALUATIONS, COMPLETIONS, SCORED)
WorkersByRole = Mapping[str, Sequence[str]]


class Measures(NamedTuple):
    """Of one run, at one moment."""

    groups: Mapping[str, int]
    """By state of the ledger."""
    issued: int
    dead_letters: int
    streams: Mapping[str, int]
    """Entries, by stream."""
    members: Sequence[pb.Member]
    """Generators that are alive."""
    alive: frozenset[str]
    """Workers whose heart beats, of those that were asked for."""


async def measure(server: Server, runs: Mapping[str, WorkersByRole]) -> dict[str, Measures]:
    """By run, of those on the server, with the workers that each is to have. Raises BusError."""
    pipeline = server.client.pipeline(transaction=False)
    beats = {run_id: [(role, one) for role, ids in workers.items() for one in ids] for run_id, workers in runs.items()}
    for run_id, workers in beats.items():
        keys = Keys(run_id)
        pipeline.hgetall(keys.ledger)
        pipeline.xlen(keys.dead)
        for name in STREAMS:
            pipeline.xlen(keys.stream(name))
        pipeline.hgetall(keys.members)
        pipeline.mget([keys.heartbeat(role, worker) for role, worker in workers])
    found = await server.run(pipeline.execute)
    width = len(STREAMS) + 4
    answers = (found[at : at + width] for at in range(0, len(found), width))
    return {run_id: _measures(beats[run_id], answer) for run_id, answer in zip(runs, answers, strict=True)}


async def payload_bytes(server: Server, run_ids: Sequence[str]) -> dict[str, int]:
    """What the payloads of each run take there, as Payloads.used_bytes. Raises BusError."""
    if not run_ids:
        return {}
    found = await server.run(server.client.mget, [Keys(run_id).payload_bytes for run_id in run_ids])
    return {run_id: int(used or 0) for run_id, used in zip(run_ids, found, strict=True)}


async def metrics_addresses(server: Server, workers: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """By run and worker, where it is scraped (`host:port`), of those that say so now. Raises BusError."""
    asked = [(run_id, worker) for run_id, ids in workers.items() for worker in ids]
    if not asked:
        return {}
    keys = [Keys(run_id).address(METRICS_ADDRESS.format(worker)) for run_id, worker in asked]
    said: dict[str, dict[str, str]] = {run_id: {} for run_id in workers}
    for (run_id, worker), address in zip(asked, await server.run(server.client.mget, keys), strict=True):
        if address is not None:
            said[run_id][worker] = address.decode()
    return said


async def memory(server: Server) -> tuple[int, int]:
    """Bytes that the server uses, and that it may use (0: no limit). Raises BusError."""
    info = await server.run(server.client.info, "memory")
    return int(info["used_memory"]), int(info["maxmemory"])


def _measures(workers: Sequence[tuple[str, str]], answer: Sequence[Any]) -> Measures:
    ledger, dead, *lengths, members, beats = answer
    alive = frozenset(worker for (_, worker), beat in zip(workers, beats, strict=True) if beat is not None)
    known = (pb.Member.FromString(data) for data in members.values())
    return Measures(
        groups=counts(ledger),
        issued=int(ledger.get(b"total", 0)),
        dead_letters=int(dead),
        streams=dict(zip(STREAMS, map(int, lengths), strict=True)),
        members=[member for member in known if member.generator_id in alive],
        alive=alive,
    )
