"""What the bus's scripts cost: completions and grades a second, against plain pipelined XADD on the same server.

    python benchmarks/bus.py [--groups 512] [--size 16] [--chunk 256] [--rounds 3] [--json FILE]

An embedded Valkey is started unless REDIS_URL is set. Each round measures everything once, interleaved; the median
round is shown. Client CPU is this process's; the server is another process and needs a core of its own.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from uuid import uuid4

from dapo.bus import Bus, Delivery
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.host.files import write_json
from dapo.v1 import messages_pb2 as pb

Measured = dict[str, float]


async def measure(count: int, work: Callable[[], Awaitable[object]]) -> Measured:
    """Items a second of wall time, and microseconds of this process's CPU for each."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"per_s": count / wall, "client_us": cpu / count * 1e6}


def make_completions(bus: Bus, groups: int, size: int) -> list[pb.Completion]:
    return [
        pb.Completion(
            group_id=f"g{group:010d}",
            index=index,
            attempt=1,
            payload_key=bus.payloads.payload_key(f"g{group:010d}", index, 1),
            text_key=bus.payloads.text_key(f"g{group:010d}", index, 1),
            prompt_tokens=120,
            response_tokens=900,
            generator_id="generator-0",
        )
        for index in range(size)
        for group in range(groups)
    ]


async def plain(bus: Bus, entries: list[bytes], chunk: int) -> None:
    """The same bytes into a stream, with nothing decided about them."""
    for at in range(0, len(entries), chunk):
        pipeline = bus.control_server.client.pipeline(transaction=False)
        for data in entries[at : at + chunk]:
            pipeline.xadd(bus.keys.prefix + "plain", {"data": data})
        await pipeline.execute()


async def one_round(url: str, groups: int, size: int, chunk: int) -> dict[str, Measured]:
    bus = await Bus.connect(url, f"bench-{uuid4().hex[:8]}")
    total = groups * size
    epoch = await bus.lease.acquire("orchestrator")
    tasks = [pb.PromptTask(group_id=f"g{group:010d}", group_size=size, gold="42") for group in range(groups)]
    found = {"issue_groups": await measure(groups, lambda: bus.groups.issue(tasks, epoch))}
    completions = make_completions(bus, groups, size)
    entries = [completion.SerializeToString() for completion in completions]
    found["plain XADD"] = await measure(total, lambda: plain(bus, entries, chunk))

    async def write() -> None:
        for at in range(0, total, chunk):
            await bus.groups.write_completions(completions[at : at + chunk])

    deliveries: list[Delivery] = []

    async def consume() -> None:
        while taken := await bus.streams.consume("completions", "verifier-0", count=chunk, block_s=0):
            deliveries.extend(taken)

    async def grade() -> None:
        for at in range(0, total, chunk):
            batch = [
                (one, pb.Grade(completion=pb.Completion.FromString(one.data), reward=1.0))
                for one in deliveries[at : at + chunk]
            ]
            await bus.groups.write_grades(batch)

    found["write_completions"] = await measure(total, write)
    found["consume"] = await measure(total, consume)
    found["write_grades"] = await measure(total, grade)
    assert (await bus.groups.ledger())["scored"] == groups
    await bus.control_server.client.delete(
        *[key async for key in bus.control_server.client.scan_iter(f"{bus.keys.prefix}*", count=1000)]
    )
    await bus.close()
    return found


def median(rounds: list[dict[str, Measured]]) -> dict[str, Measured]:
    return {
        name: {unit: statistics.median(one[name][unit] for one in rounds) for unit in rounds[0][name]}
        for name in rounds[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=512)
    parser.add_argument("--size", type=int, default=16, help="completions of a group")
    parser.add_argument("--chunk", type=int, default=256, help="items of one call")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("REDIS_URL")
        with nullcontext() if given else EmbeddedValkey(Path(folder), memory_mib=1024) as server:
            url = given or server.url
            rounds = [asyncio.run(one_round(url, args.groups, args.size, args.chunk)) for _ in range(args.rounds)]
    figures = median(rounds)
    base = figures["plain XADD"]["per_s"]
    print(
        f"{args.groups} groups of {args.size}, {args.chunk} items a call, median of {args.rounds} rounds,"
        f" {os.cpu_count()} cores"
    )
    print(f"{'operation':<20}{'per s':>12}{'client µs each':>18}{'of plain XADD':>16}")
    for name, one in figures.items():
        one["of_plain_xadd"] = one["per_s"] / base
        print(f"{name:<20}{one['per_s']:>12,.0f}{one['client_us']:>18.1f}{one['of_plain_xadd']:>16.2f}")
    if args.json:
        setting = {"groups": args.groups, "size": args.size, "chunk": args.chunk, "rounds": args.rounds}
        write_json(args.json, {"setting": setting, "cores": os.cpu_count(), "figures": figures})


if __name__ == "__main__":
    main()
