"""Which checkpoint a learner goes on from, and what the batch log keeps for it."""

import asyncio
import json
import signal
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
from tests.support.bus import make_kept, read_alerts  # noqa: E402
from tests.support.learner.processes import (  # noqa: E402
    GROUP_SIZE,
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
from tests.support.models import save_model  # noqa: E402

Processes = list[asyncio.subprocess.Process]


async def begin(
    bus: Bus, run_dir: Path, batches: int, *, cut: int | None = None, ranks: int = 1, **checkpoint: Any
) -> tuple[int, list[list[str]]]:
    """A run with so many batches, the first `cut` of them (all by default) in its log; the orchestrator's epoch, and
    the keys of each batch's payloads."""
    spec = make_spec(run_dir / "model", ranks=ranks, **checkpoint)
    await bus.runs.create(spec.model_dump_json(), str(run_dir), "2026-01-01T00:00:00Z")
    epoch = await make_kept(bus, 2 * batches, GROUP_SIZE)
    made = [make_batch(bus, number) for number in range(batches)]
    await bus.payloads.put(dict.fromkeys(payload_keys(made), payload()))
    for batch in made[:cut]:
        await bus.batches.cut(batch, epoch)
    return epoch, [payload_keys([batch]) for batch in made]


def reached(run_dir: Path, step: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        latest = newest(run_dir)
        return latest is not None and latest.manifest.step == step

    return condition


async def stop(processes: Processes) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert await exit_codes(processes) == [128 + signal.SIGTERM]


async def held(bus: Bus, keys: list[list[str]]) -> list[bool]:
    """For each batch, whether its payloads are there."""
    return [None not in await bus.payloads.get(of_batch) for of_batch in keys]


def holds(bus: Bus, keys: list[list[str]], wanted: list[bool]) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return await held(bus, keys) == wanted

    return condition


def lie_there(run_dir: Path, *names: str) -> Callable[[], Awaitable[bool]]:
    """Whether these are the checkpoints and markers."""

    async def condition() -> bool:
        return sorted(path.name for path in (run_dir / "checkpoints").glob("*")) == sorted(names)

    return condition


def weights(run_dir: Path) -> dict[str, "torch.Tensor"]:
    latest = newest(run_dir)
    assert latest is not None
    return load_file(latest.directory / "hf" / "model.safetensors")


@pytest.mark.timeout(600)
def test_of_a_damaged_newest_checkpoint_the_one_before_is_taken_and_the_log_replayed(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", 0)

    async def scenario(bus: Bus, processes: Processes) -> None:
        epoch, keys = await begin(bus, tmp_path, 3, every_steps=1, keep_last=2)
        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        await until(holds(bus, keys, [False, False, True]), processes)
        await until(lie_there(tmp_path, "latest.e1.json", "step-000002.e1", "step-000003.e1"), processes)
        await stop(processes)
        first_life = weights(tmp_path)
        latest = newest(tmp_path)
        assert latest is not None
        harmed = next(latest.directory.joinpath("policy").iterdir())
        harmed.write_bytes(b"cut short")

        processes[:] = await start_ranks(valkey.url, tmp_path, ranks=1)
        await until(lie_there(tmp_path, "latest.e2.json", "step-000002.e1", "step-000003.e2"), processes)
        second_life = weights(tmp_path)
        assert all(torch.equal(second_life[name], weight) for name, weight in first_life.items())
        (alert,) = await read_alerts(bus)
        assert alert["kind"] == "checkpoint_damaged"
        assert alert["message"].startswith("a checkpoint is damaged, the learner goes on from step 2: ")
        assert str(harmed) in alert["message"]

        await bus.batches.cut(pb.TrainBatch(batch=3, end=True), epoch)
        assert await exit_codes(processes) == [0]
        assert await held(bus, keys) == [False, False, False]
        assert [batch.batch for batch in await bus.batches.read(-1, block_s=0, count=9)] == [3]

        # Now the log has nothing left that an older checkpoint could go on with.
        await bus.weights.publish_version(pb.Version(incarnation=2, step=3), 2)
        next((tmp_path / "checkpoints" / "step-000003.e2" / "policy").iterdir()).unlink()
        processes[:] = await start_ranks(valkey.url, tmp_path, ranks=1)
        assert await exit_codes(processes) == [1]
        log = (tmp_path / "learner-0.log").read_text()
        assert "Traceback" not in log
        assert log.splitlines()[-1].startswith(
            "error: CheckpointError: the run has come to step 3 and cannot go on from the checkpoint of step 2, as the "
            "batches behind it have left the log: "
        )

    play(valkey.url, scenario)


@pytest.mark.timeout(600)
def test_a_run_that_ends_before_its_first_batch_has_no_checkpoint(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    save_model(tmp_path / "model", 0)

    async def scenario(bus: Bus, processes: Processes) -> None:
        epoch, _ = await begin(bus, tmp_path, 1, cut=0)
        await bus.batches.cut(pb.TrainBatch(batch=0, end=True), epoch)
        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        assert await exit_codes(processes) == [0]
        assert newest(tmp_path) is None
        assert not (tmp_path / "checkpoints").exists()

    play(valkey.url, scenario)


@pytest.mark.timeout(600)
def test_a_learner_that_wakes_up_after_it_was_replaced_writes_nothing(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    save_model(tmp_path / "model", 0)

    async def scenario(bus: Bus, processes: Processes) -> None:
        epoch, _ = await begin(bus, tmp_path, 2, cut=1, every_steps=1, keep_last=2)
        (sleeper,) = await start_ranks(valkey.url, tmp_path, ranks=1)
        processes.append(sleeper)
        await until(lie_there(tmp_path, "latest.e1.json", "step-000001.e1"), processes)
        sleeper.send_signal(signal.SIGSTOP)
        await bus.batches.cut(make_batch(bus, 1), epoch)
        (successor,) = await start_ranks(valkey.url, tmp_path, ranks=1)
        processes.append(successor)
        written = lie_there(tmp_path, "latest.e2.json", "step-000001.e1", "step-000002.e2")
        await until(written, processes)

        sleeper.send_signal(signal.SIGCONT)
        assert await exit_codes([sleeper]) == [1]
        log = (tmp_path / "learner-0.log").read_text()
        assert "error: Fenced: learner epoch 1, newest 2" in log
        assert await written()
        latest = newest(tmp_path)
        assert latest is not None
        assert latest.manifest.incarnation == 2
        await stop([successor])

    play(valkey.url, scenario)


@pytest.mark.timeout(600)
def test_crowded_memory_frees_what_only_a_damaged_checkpoint_would_need(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    save_model(tmp_path / "model", 0)

    async def scenario(bus: Bus, processes: Processes) -> None:
        _, keys = await begin(bus, tmp_path, 2, every_steps=1, keep_last=2, memory_mib=64)
        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        await until(holds(bus, keys, [False, True]), processes)
        await bus.payloads.put({f"filler{number}": bytes(2**20) for number in range(48)})

        await until(holds(bus, keys, [False, False]), processes)
        await until(lambda: told(bus), processes)
        latest = newest(tmp_path)
        assert latest is not None
        assert latest.manifest.step == 2
        await stop(processes)

    async def told(bus: Bus) -> bool:
        return [alert["kind"] for alert in await read_alerts(bus)] == ["checkpoint_fallback_freed"]

    play(valkey.url, scenario)


@pytest.mark.timeout(600)
def test_beside_the_newest_every_so_many_and_the_best_are_kept(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    save_model(tmp_path / "model", 0)
    rows = [
        {"set": "exam", "step": step, "samples": 4, "avg_at_k": {"value": value, "low": 0.0, "high": 1.0}}
        for step, value in ((1, 0.9), (2, 0.1))
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def scenario(bus: Bus, processes: Processes) -> None:
        await begin(bus, tmp_path, 5, every_steps=1, keep_last=1, keep_every_steps=3, keep_best="exam")
        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        names = [f"step-{step:06d}.e1" for step in (1, 3, 5)]
        await until(lie_there(tmp_path, "latest.e1.json", *names), processes)
        await stop(processes)

    play(valkey.url, scenario)


@pytest.mark.timeout(600)
def test_an_epoch_is_above_all_that_wrote_here_though_redis_is_empty(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    save_model(tmp_path / "model", 0)

    async def scenario(bus: Bus, processes: Processes) -> None:
        await begin(bus, tmp_path, 1, every_steps=1, keep_last=2)
        (tmp_path / "checkpoints" / "step-000001.e7").mkdir(parents=True)
        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        await until(reached(tmp_path, 1), processes)
        await stop(processes)
        latest = newest(tmp_path)
        assert latest is not None
        assert latest.directory.name == "step-000001.e8"

    play(valkey.url, scenario)


async def report_again(bus: Bus, report: pb.StepReport, entry: str) -> None:
    """The stream of reports with this one alone."""
    await bus.control_server.client.delete(bus.keys.steps)
    await bus.control_server.client.xadd(bus.keys.steps, {"data": report.SerializeToString()}, id=entry)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_trained_again_after_a_kill_has_the_recorded_fingerprints(
    valkey: EmbeddedValkey, tmp_path: Path, ranks: int
) -> None:
    """ZeRO 3, killed before the first checkpoint; then the last checkpoint against what was recorded of its step."""
    save_model(tmp_path / "model", 0)
    exact = "the recorded parameters, bit for bit"

    async def scenario(bus: Bus, processes: Processes) -> None:
        epoch, _ = await begin(bus, tmp_path, 4, ranks=ranks, every_steps=100, keep_last=1)

        async def recorded() -> bool:
            return len(await bus.batches.read_steps("0", block_s=0)) == 4

        processes += await start_ranks(valkey.url, tmp_path, ranks=ranks)
        await until(recorded, processes)
        for process in processes:
            process.kill()
        assert await exit_codes(processes) == [-signal.SIGKILL] * ranks
        reports = await bus.batches.read_steps("0", block_s=0)
        assert len({report.fingerprint for _, report in reports}) == 4
        assert all(len(report.fingerprint) == 16 for _, report in reports)

        await bus.batches.cut(pb.TrainBatch(batch=4, end=True), epoch)
        processes[:] = await start_ranks(valkey.url, tmp_path, ranks=ranks)
        assert await exit_codes(processes) == [0] * ranks
        log = (tmp_path / "learner-0.log").read_text()
        assert [f"step {step}, trained again, gave {exact}" in log for step in (1, 2, 3, 4)] == [True] * 4
        assert await read_alerts(bus) == []
        assert await bus.batches.read_steps("0", block_s=0) == reports

        # The checkpoint of step 4 against another record of it.
        entry, last = reports[-1]
        last.fingerprint = "0123456789abcdef"
        await report_again(bus, last, entry)
        processes[:] = await start_ranks(valkey.url, tmp_path, ranks=ranks)
        assert await exit_codes(processes) == [0] * ranks
        (alert,) = await read_alerts(bus)
        assert (alert["kind"], alert["batch"]) == ("replay_differs", 3)
        assert alert["message"].startswith("the checkpoint of step 4 holds other parameters than were recorded: ")
        assert "recorded 0123456789abcdef" in alert["message"]

    play(valkey.url, scenario)
