"""Learner ranks as the launcher starts them: train, publish, stop, resume by replay, end; full memory; a successor."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from safetensors.torch import load_file  # noqa: E402

from dapo.bus import Bus  # noqa: E402
from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from dapo.contracts.arrays import encode_ids, encode_logprobs  # noqa: E402
from dapo.spec import RunSpec  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from services.learner.checkpoint import read_latest  # noqa: E402
from tests.support.bus import RUN, group_id, make_kept, read_alerts  # noqa: E402
from tests.support.disks import small_disk  # noqa: E402
from tests.support.learner.weight_receiver import Receiver  # noqa: E402
from tests.support.models import save_model  # noqa: E402
from tests.support.paths import REPO  # noqa: E402

RANKS = 2
GROUP_SIZE = 4
WAIT_S = 240.0
PROMPT, RESPONSE = [1, 2, 3], [4, 5, 6, 7, 8]


def make_spec(model: Path, *, ranks: int = RANKS, every_steps: int = 2, memory_mib: int = 1024) -> RunSpec:
    return RunSpec.model_validate(
        {
            "model": {"path": str(model)},
            "data": {"path": "unused.jsonl"},
            "sampling": {"group_size": GROUP_SIZE, "max_response_tokens": 16},
            "reward": {"overlong_buffer_tokens": 4},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0},
            "training": {"steps": 3, "prompts_per_step": 2, "updates_per_step": 2, "zero_stage": 3},
            "checkpoint": {"every_steps": every_steps, "keep_last": 1},
            "resources": {"learner": {"ranks": ranks, "device": "cpu"}, "redis": {"memory_mib": memory_mib}},
        }
    )


def payload() -> bytes:
    return pb.CompletionPayload(
        prompt_ids=encode_ids(PROMPT), response_ids=encode_ids(RESPONSE), logprobs=encode_logprobs([-1.5] * 5)
    ).SerializeToString()


def make_batch(bus: Bus, number: int) -> pb.TrainBatch:
    """Groups 2b and 2b + 1, with advantages that do not add up to nothing."""
    groups = []
    for group in (2 * number, 2 * number + 1):
        samples = [
            pb.TrainSample(
                payload_key=bus.payloads.payload_key(group_id(group), index, 1),
                prompt_tokens=len(PROMPT),
                response_tokens=len(RESPONSE),
                advantage=1.0 - 0.3 * index,
                in_loss=True,
            )
            for index in range(GROUP_SIZE)
        ]
        groups.append(pb.TrainGroup(group_id=group_id(group), issued_version=max(0, number - 1), samples=samples))
    return pb.TrainBatch(batch=number, groups=groups)


async def start_ranks(url: str, run_dir: Path, ranks: int = RANKS) -> list[asyncio.subprocess.Process]:
    processes = []
    for rank in range(ranks):
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO),
            "DAPO_RUN_ID": RUN, "DAPO_REDIS_URL": url, "DAPO_WORKER_ID": f"learner-{rank}",
            "DAPO_RUN_DIR": str(run_dir), "DAPO_REPLICA": str(rank), "DAPO_REPLICAS": str(ranks),
        }  # fmt: skip
        with (run_dir / f"learner-{rank}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.learner", env=environment, stderr=log, stdout=log
            )
        processes.append(process)
    return processes


async def exit_codes(processes: list[asyncio.subprocess.Process]) -> list[int]:
    async with asyncio.timeout(WAIT_S):
        return list(await asyncio.gather(*(process.wait() for process in processes)))


async def until(condition: Callable[[], Awaitable[Any]], processes: list[asyncio.subprocess.Process]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            assert all(process.returncode is None for process in processes), "a rank ended early"
            await asyncio.sleep(0.1)


def payload_keys(batches: list[pb.TrainBatch]) -> list[str]:
    return [sample.payload_key for batch in batches for group in batch.groups for sample in group.samples]


Scenario = Callable[[Bus, list[asyncio.subprocess.Process]], Awaitable[None]]


def play(url: str, scenario: Scenario) -> None:
    """The scenario keeps the list of its processes up to date; none of them outlives it."""

    async def main() -> None:
        bus = await Bus.connect(url, RUN, instance="process0")
        processes: list[asyncio.subprocess.Process] = []
        try:
            await scenario(bus, processes)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
            await bus.close()

    asyncio.run(main())


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

        processes += await start_ranks(valkey.url, tmp_path)
        await until(served(1), processes)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert await exit_codes(processes) == [128 + signal.SIGTERM] * RANKS
        latest = read_latest(tmp_path)
        assert latest is not None
        assert latest[1].step == 2
        first_life = receiver.received[-1]

        processes[:] = await start_ranks(valkey.url, tmp_path)
        await until(served(2), processes)
        for before, after in zip(first_life, receiver.received[-1], strict=True):
            assert torch.equal(before, after)
        await bus.batches.cut(pb.TrainBatch(batch=3, end=True), epoch)
        assert await exit_codes(processes) == [0, 0]

        latest = read_latest(tmp_path)
        assert latest is not None
        assert latest[1].step == 3
        assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000003"]
        state = load_file(latest[0] / "hf" / "model.safetensors")
        commands = [command for _, command in await bus.weights.read_commands("generator-0", "0", block_s=0.1)]
        update = [command.update for command in commands if command.HasField("update")][-1]
        names = [(t.name, list(t.shape)) for bucket in update.buckets for t in bucket.tensors]
        sent = received_tensors(receiver, names)
        assert sent.keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(sent[name], tensor), name

        reports = [report for _, report in await bus.batches.read_steps("0", block_s=0.1)]
        assert [report.batch for report in reports] == [0, 1, 2]
        assert [report.metrics["trained_responses"] for report in reports] == [8, 7, 8]
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
    manifest = json.loads((tmp_path / "checkpoints" / "step-000003" / "manifest.json").read_text())
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
            latest = read_latest(tmp_path)
            return latest and latest[1].step

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
        assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000001"]
        last = (tmp_path / "learner-0.log").read_text().splitlines()[-1]
        assert last.startswith("error: Fenced: learner epoch 1, newest 2")

    play(valkey.url, scenario)
