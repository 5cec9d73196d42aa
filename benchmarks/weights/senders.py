"""Seconds of a weight update over a throttled network, by the number of learner ranks that send and of generators.

    python benchmarks/weights/senders.py [--mib 64] [--bucket-mib 8] [--mbit 400] [--senders 1 2] [--receivers 1 4 8]

Root on Linux: each sender is a process in a network namespace of its own, whose card sends at most `--mbit` (tc, tbf);
generators and Valkey are in this one. Sent is by the learner's own code, from Publisher down to WeightGroup, over gloo;
generators are those of the tests, without an engine, so no pause is in the figures. `raw` is one bare broadcast of the
same bytes over one such card, in the same run. `share` is raw · receivers / senders / seconds: 1 where the cards are
busy with nothing else for all the time. The best of three updates.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # For generators and networks, which are the tests'.

from dapo.host.addresses import bind_collectives

_HERE, _TIMEOUT_S, _ROUNDS, _RUN = "10.77.0.1", 600.0, 3, "test-run"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="size of the model")
    parser.add_argument("--bucket-mib", type=int, default=8)
    parser.add_argument("--mbit", type=int, default=400, help="of each sender's card, per second")
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--receivers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args()


async def send(options: argparse.Namespace) -> None:
    """One rank: joins as many generators as there are, then sends each version. Rank 0 prints `raw` and the seconds."""
    import torch

    from dapo.bus import Bus
    from dapo.spec.tree.training import WeightSyncSpec
    from dapo.v1 import messages_pb2 as pb
    from services.learner.weights.orders import OrderedSender, RemoteSender, Reports
    from services.learner.weights.publisher import Publisher
    from services.learner.weights.sender import Sender
    from services.learner.weights.transport import WeightGroup

    (receivers,), (ranks,), epoch = options.receivers, options.senders, 1
    bus = await Bus.connect(options.url, _RUN)
    size = options.bucket_mib * 2**20
    count = options.mib // options.bucket_mib
    table = [pb.WeightBucket(tensors=[pb.TensorSpec(name=f"t{n}", dtype="uint8", shape=[size])]) for n in range(count)]
    spec = WeightSyncSpec(lag_deadline_s=_TIMEOUT_S, update_deadline_s=_TIMEOUT_S)
    sender = Sender(bus, epoch, spec, table, address=options.address, devices=(), rank=options.rank, ranks=ranks)

    def make(position: int) -> Any:
        return torch.full((size,), position, dtype=torch.uint8)

    if options.rank:
        ordered = OrderedSender(bus, epoch, options.rank, sender)
        listening = asyncio.create_task(forever(ordered.listen))
        for step in range(_ROUNDS):
            begun = await ordered.begun(step)
            await begun.draw(make)
            await begun.ended()
        await asyncio.sleep(1.0)
        listening.cancel()
        return
    raw = WeightGroup("raw", 2, "gloo", _TIMEOUT_S, options.address)
    print("port", raw.port, flush=True)
    await asyncio.to_thread(raw.join, _TIMEOUT_S)
    began = time.monotonic()
    for position in range(count):
        await asyncio.to_thread(raw.broadcast, make(position), _TIMEOUT_S)
    print("raw", time.monotonic() - began, flush=True)
    reports = Reports(bus, epoch)
    others = {rank: RemoteSender(reports, rank, join_s=60.0, update_s=_TIMEOUT_S) for rank in range(1, ranks)}
    publisher = Publisher(bus, epoch, spec, sender, others, [str(rank) for rank in range(ranks)])
    listening = asyncio.create_task(forever(reports.listen))
    while len(publisher._subscribers) < receivers:
        await publisher.refresh()
        await asyncio.sleep(0.05)
    for step in range(_ROUNDS):
        began = time.monotonic()
        begun = await publisher.begin(step)
        await begun.draw(make)
        await publisher.finish(step)
        print("seconds", time.monotonic() - began, flush=True)
    listening.cancel()


async def forever(listen: Any) -> None:
    while True:
        await listen()


async def measure(options: argparse.Namespace, hosts: list[Any], url: str, senders: int, receivers: int) -> Any:
    """(raw, seconds) of the best update."""
    from dapo.bus import Bus
    from tests.support.learner.weight_receiver import Receiver
    from tests.support.receiving import ReceivingGroup

    bus = await Bus.connect(url, _RUN)
    await bus.lease.acquire("learner")
    generators = [Receiver(bus, f"generator-{number}") for number in range(receivers)]
    receiving = [asyncio.create_task(one.run()) for one in generators]
    sizes = ["--mib", options.mib, "--bucket-mib", options.bucket_mib, "--senders", senders, "--receivers", receivers]
    ranks = [
        await asyncio.create_subprocess_exec(
            *host.command(sys.executable, __file__, *map(str, sizes), "--rank", str(rank)),
            *("--address", host.address, "--url", url),
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")},
        )
        for rank, host in enumerate(hosts[:senders])
    ]
    output = ranks[0].stdout
    assert output is not None
    port = int((await output.readline()).split()[1])
    join = partial(ReceivingGroup, "raw", hosts[0].address, port, 2, "gloo", timedelta(seconds=_TIMEOUT_S))
    group = await asyncio.to_thread(join)
    for _ in range(options.mib // options.bucket_mib):
        await asyncio.to_thread(group.receive, options.bucket_mib * 2**20)
    figures = [line.split() for line in (await output.read()).decode().splitlines()]
    for process in ranks:
        await process.wait()
    for task in receiving:
        task.cancel()
    await asyncio.gather(*receiving, return_exceptions=True)
    await bus.close()
    assert all(len(one.received) == _ROUNDS for one in generators)
    return float(figures[0][1]), min(float(value) for _, value in figures[1:])


def main() -> None:
    options = parse()
    if options.rank is not None:
        bind_collectives(options.address)
        asyncio.run(send(options))
        return
    from rich.console import Console
    from rich.table import Table

    from benchmarks.machine import machine
    from dapo.host.files import write_json
    from tests.e2e.test_hosts import redis_on
    from tests.support.orchestrator.hosts import Host, network

    rows = []
    with network(max(options.senders)) as hosts, tempfile.TemporaryDirectory() as folder:
        if not hosts[0].namespace:
            sys.exit("no network namespaces can be made here: run it as root, with iproute2")
        bind_collectives(_HERE)
        for host in hosts:
            limit = f"tc qdisc add dev eth0 root tbf rate {options.mbit}mbit burst 512kb latency 200ms"
            subprocess.run(host.command(*limit.split()), check=True)
        for receivers in options.receivers:
            for senders in options.senders:
                with redis_on(Host(_HERE), Path(folder) / f"{senders}-{receivers}") as url:
                    raw_s, seconds = asyncio.run(measure(options, hosts, url, senders, receivers))
                share = raw_s * receivers / min(senders, receivers) / seconds
                rows.append({"receivers": receivers, "senders": senders, "s": seconds, "raw_s": raw_s, "share": share})
    table = Table(title=f"{options.mib} MiB in buckets of {options.bucket_mib}, {options.mbit} Mbit/s for each sender")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    if options.json:
        write_json(options.json, {"machine": machine("torch"), "rows": rows})


if __name__ == "__main__":
    main()
