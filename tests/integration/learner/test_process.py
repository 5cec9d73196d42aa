"""Learner ranks as the launcher starts them: train, publish, stop, resume by replay, end; full memory; a successor."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from safetensors.torch import load_file  # noqa: E402

from dapo.bus import Bus  # noqa: E402
from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from tests.support.bus import group_id, make_kept, read_alerts  # noqa: E402
from tests.support.disks import small_disk  # noqa: E402
from tests.support.learner.processes import (  # noqa: E402
    GROUP_SIZE,
    RANKS,
    exit_codes,
    make_batch,
    make_spec,
    newest,
    payload,
    payload_keys,
    play,
    start_ranks,
    until,
)
from tests.support.learner.weight_receiver import Receiver  # noqa: E402
from tests.support.models import save_model  # noqa: E402


@pytest.mark.timeout(300)
def test_a_rank_is_heard_before_its_peers_and_the_model_are_there(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "model")

    async def scenario(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        await bus.runs.create(spec.model_dump_json(), str(tmp_path), "2026-01-01T00:00:00Z")
        first, second = await start_ranks(valkey.url, tmp_path)
        processes.append(first)
        second.kill()

        async def heard() -> bool:
            return bool(await bus.registry.alive("learner", ["learner-0"]))

        await until(heard, processes)

    play(valkey.url, scenario)


def received_tensors(receiver: Receiver, names: list[tuple[str, list[int]]]) -> dict[str, Any]:
    """The last update that a receiver got, cut into float32 tensors."""
    flat = torch.cat(receiver.received[-1]).view(torch.float32)
    sizes = [torch.Size(shape).numel() for _, shape in names]
    return {name: part.view(shape) for (name, shape), part in zip(names, flat.split(sizes), strict=True)}


@pytest.mark.timeout(900)
def test_two_ranks_train_publish_stop_resume_and_end(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    save_model(tmp_path / "model", 0)
    spec = make_spec(tmp_path / "model")

    async def scenario(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        await bus.runs.create(spec.model_dump_json(), str(tmp_path), "2026-01-01T00:00:00Z")
        epoch = await make_kept(bus, 6, GROUP_SIZE)
        batches = [make_batch(bus, number) for number in range(3)]
        keys = payload_keys(batches)
        await bus.payloads.put(dict.fromkeys(keys, payload()))
        lost = batches[1].groups[0].samples[0].payload_key
        await bus.payloads.delete([lost])
        for batch in batches:
            await bus.batches.cut(batch, epoch)
        receiver = Receiver(bus, "generator-0")
        receiving = asyncio.create_task(receiver.run())

        def served(incarnation: int) -> Callable[[], Awaitable[bool]]:
            async def reached() -> bool:
                return await bus.weights.published_version() == pb.Version(incarnation=incarnation, step=3)

            return reached

        async def second_step_kept() -> bool:
            """It is written beside the third."""
            return newest(tmp_path) is not None

        processes += await start_ranks(valkey.url, tmp_path)
        await until(served(1), processes)
        await until(second_step_kept, processes)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert await exit_codes(processes) == [128 + signal.SIGTERM] * RANKS
        latest = newest(tmp_path)
        assert latest is not None
        assert latest.manifest.step == 2
        first_life = receiver.received[-1]

        processes[:] = await start_ranks(valkey.url, tmp_path)
        await until(served(2), processes)
        for before, after in zip(first_life, receiver.received[-1], strict=True):
            assert torch.equal(before, after)
        await bus.batches.cut(pb.TrainBatch(batch=3, end=True), epoch)
        assert await exit_codes(processes) == [0, 0]

        latest = newest(tmp_path)
        assert latest is not None
        assert latest.manifest.step == 3
        assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000003.e2"]
        state = load_file(latest.directory / "hf" / "model.safetensors")
        commands = [command for _, command in await bus.weights.read_commands("generator-0", "0", block_s=0.1)]
        table = [command.update.buckets for command in commands if command.update.buckets][-1]
        names = [(t.name, list(t.shape)) for bucket in table for t in bucket.tensors]
        sent = received_tensors(receiver, names)
        assert sent.keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(sent[name], tensor), name

        reports = [report for _, report in await bus.batches.read_steps("0", block_s=0.1)]
        assert [report.batch for report in reports] == [0, 1, 2]
        assert [report.metrics["trained_responses"] for report in reports] == [8, 7, 8]
        assert [report.metrics["lost_responses"] for report in reports] == [0, 1, 0]
        assert [report.metrics["staleness_max"] for report in reports] == [0, 1, 1]
        alerts = await read_alerts(bus)
        assert [(alert["kind"], alert["payload_key"]) for alert in alerts] == [("payload_unusable", lost)]
        letters = await bus.dead_letters.read()
        assert [(letter["group"], letter["reason"]) for letter in letters] == [(group_id(2), "payload_unusable")]
        assert letters[0]["detail"] == f"{lost}: the payload is missing"
        ledger = await bus.groups.ledger()
        assert {name: count for name, count in ledger.items() if count} == {"trained": 6}
        assert await bus.payloads.get(keys) == [None] * len(keys)
        receiving.cancel()

    play(valkey.url, scenario)
    manifest = json.loads((tmp_path / "checkpoints" / "step-000003.e2" / "manifest.json").read_text())
    assert manifest["world_size"] == RANKS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("hindrance", ["full", "read-only"])
def test_a_disk_that_refuses_a_checkpoint_is_told_in_one_sentence(
    valkey: EmbeddedValkey, tmp_path: Path, hindrance: str
) -> None:
    save_model(tmp_path / "model", 0)
    spec = make_spec(tmp_path / "model", ranks=1, every_steps=1)

    async def scenario(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        await bus.runs.create(spec.model_dump_json(), str(tmp_path), "2026-01-01T00:00:00Z")
        epoch = await make_kept(bus, 2, GROUP_SIZE)
        batch = make_batch(bus, 0)
        await bus.payloads.put(dict.fromkeys(payload_keys([batch]), payload()))
        await bus.batches.cut(batch, epoch)
        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        assert await exit_codes(processes) == [os.EX_IOERR]

    with small_disk(tmp_path / "checkpoints", kib=300) as disk:
        if hindrance == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        play(valkey.url, scenario)
        log = (tmp_path / "learner-0.log").read_text()
    matter = {"full": "the disk is full", "read-only": "the file system is read-only"}[hindrance]
    assert log.splitlines()[-1].startswith(f"error: the checkpoint of step 1 cannot be written: {matter}: {disk}")
    assert "Traceback" not in log


@pytest.mark.timeout(600)
def test_full_memory_forces_a_checkpoint_while_idle_and_a_replaced_learner_writes_none(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", 0)
    spec = make_spec(tmp_path / "model", ranks=1, every_steps=100, memory_mib=64)
    filler = {f"filler{number}": bytes(2**20) for number in range(48)}

    async def scenario(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        await bus.runs.create(spec.model_dump_json(), str(tmp_path), "2026-01-01T00:00:00Z")
        epoch = await make_kept(bus, 4, GROUP_SIZE)
        batches = [make_batch(bus, number) for number in range(2)]
        await bus.payloads.put(dict.fromkeys(payload_keys(batches), payload()))

        def trained(count: int) -> Callable[[], Awaitable[bool]]:
            async def reached() -> bool:
                return len(await bus.batches.read_steps("0", block_s=0)) == count

            return reached

        async def freed() -> bool:
            return await bus.payloads.get(payload_keys(batches[:1])) == [None] * 2 * GROUP_SIZE

        def latest_step() -> int | None:
            latest = newest(tmp_path)
            return latest and latest.manifest.step

        await bus.batches.cut(batches[0], epoch)
        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        await until(trained(1), processes)
        assert latest_step() is None
        await bus.payloads.put(filler)
        await until(freed, processes)
        assert latest_step() == 1

        await bus.payloads.delete(list(filler))
        await bus.batches.cut(batches[1], epoch)
        await until(trained(2), processes)
        assert latest_step() == 1
        await bus.lease.acquire("learner")
        await bus.batches.cut(pb.TrainBatch(batch=2, end=True), epoch)
        assert await exit_codes(processes) == [1]
        assert latest_step() == 1
        assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000001.e1"]
        last = (tmp_path / "learner-0.log").read_text().splitlines()[-1]
        assert last.startswith("error: Fenced: learner epoch 1, newest 2")

    play(valkey.url, scenario)


@pytest.mark.timeout(600)
def test_a_batch_of_which_nothing_can_be_read_is_no_step(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """On every rank, though the first rank's share alone would tell it nothing of the others'."""
    save_model(tmp_path / "model", 0)
    spec = make_spec(tmp_path / "model")

    async def scenario(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        await bus.runs.create(spec.model_dump_json(), str(tmp_path), "2026-01-01T00:00:00Z")
        epoch = await make_kept(bus, 4, GROUP_SIZE)
        batches = [make_batch(bus, number) for number in range(2)]
        await bus.payloads.put(dict.fromkeys(payload_keys(batches[:1]), payload()))
        for batch in batches:
            await bus.batches.cut(batch, epoch)
        processes += await start_ranks(valkey.url, tmp_path)
        assert await exit_codes(processes) == [1] * RANKS
        assert [report.batch for _, report in await bus.batches.read_steps("0", block_s=0)] == [0]
        assert [batch.batch for batch in await bus.batches.read(0, block_s=0)] == [1]
        ledger = await bus.groups.ledger()
        assert {name: count for name, count in ledger.items() if count} == {"trained": 2, "batched": 2}
        alerts = await read_alerts(bus)
        assert [(alert["kind"], alert["batch"]) for alert in alerts] == [("payload_unusable", 1)] * RANKS
        assert len(await bus.dead_letters.read()) == 2 * GROUP_SIZE

    play(valkey.url, scenario)
    for rank in range(RANKS):
        log = (tmp_path / f"learner-{rank}.log").read_text()
        assert log.splitlines()[-1].startswith(
            "error: BatchLost: batch 1 cannot be trained: none of its 8 responses can be read from Redis"
        )
        assert "Traceback" not in log
