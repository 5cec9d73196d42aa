"""A run's driver with a launcher without processes: its end, and a Redis that goes away, wholly or for a moment."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dapo.bus import BusError
from dapo.bus.server.embedded import EmbeddedValkey
from services.orchestrator.runs import completion
from tests.support.disks import fill, small_disk
from tests.support.orchestrator.control import STEPS, make_spec
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.orchestrator.stage import RUN, Stage, learn_to_the_end, run_stage, services
from tests.support.waiting import eventually


def test_a_run_is_over_once_the_log_says_so_whatever_processes_do(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await learn_to_the_end(stage, commit=True)

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url)
    assert stage.states() == ["starting", "running", "draining", "succeeded"]
    assert stage.summary()["steps"] == STEPS
    assert stage.launcher.stopped == [RUN]
    # Its learner still ran when the run was over.
    target, workloads = stage.launcher.applied[0]
    assert (target.run_id, [workload.name for workload in workloads]) == (RUN, ["generator", "verifier", "learner"])


def test_a_worker_that_fails_after_the_last_checkpoint_fails_no_run(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        async with services(bus) as workers:
            await workers.learn()
            epoch = await bus.lease.acquire("learner")
            await bus.batches.commit_checkpoint(STEPS - 1, epoch)
            stage.launcher.end(RUN, "learner-0", 1)
            await eventually(lambda: stage.states()[-1] in ("succeeded", "failed"))
        await bus.close()

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"


@pytest.mark.parametrize(("commit", "state"), [(True, "succeeded"), (False, "stopped")])
def test_a_stop_in_the_last_second_leaves_a_run_what_it_has_become(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: bool, state: str
) -> None:
    monkeypatch.setattr(completion, "_POLL_S", 60.0)

    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        async with services(bus) as workers:
            await workers.learn()
            await asyncio.sleep(0.5)  # the driver has looked, and will not look again for a minute
            if commit:
                epoch = await bus.lease.acquire("learner")
                await bus.batches.commit_checkpoint(STEPS - 1, epoch)
            await stage.driver.stop()
        await bus.close()

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == state
    assert stage.summary()["state"] == state


def test_a_stop_whose_client_gives_up_waiting_ends_the_run(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        async with services(bus) as workers:
            workers.learn_s = 1.0
            learning = asyncio.create_task(workers.learn())
            await eventually(lambda: stage.states()[-1:] == ["running"])
            asked = asyncio.create_task(stage.driver.stop(save=True))
            await asyncio.sleep(0.2)
            asked.cancel()
            await eventually(lambda: stage.states()[-1] == "stopped")
            learning.cancel()
            await asyncio.wait({learning})
        await bus.close()

    spec = make_spec(tmp_path, staleness=1, tree={"checkpoint": {"on_stop_s": 1.0}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.summary()["message"] == "stopped on request"


def test_whatever_the_launcher_does_at_the_end_redis_is_closed(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    class Broken(FakeLauncher):
        async def stop(self, run_id: str) -> None:
            raise RuntimeError("no such namespace")

    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        await stage.driver.stop()

    spec = make_spec(tmp_path, staleness=1)
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url, launcher=Broken())
    assert stage.states()[-1] == "failed"
    assert stage.driver._redis.bus is None
    assert "could not be ended in order" in stage.driver.snapshot().message


def test_a_learner_that_leaves_without_its_last_checkpoint_fails_the_run(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def play(stage: Stage) -> None:
        await learn_to_the_end(stage, commit=False)

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "failed"
    assert stage.summary()["message"] == "the learner ended before its last checkpoint was written"


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (lambda launcher: launcher.end(RUN, "verifier-0", 1), "verifier-0 exited with code 1"),
        (lambda launcher: launcher.end(RUN, "learner-0", 0), "learner-0 exited with code 0"),
        (lambda launcher: launcher.fail(RUN, "generator-0", "no such image"), "generator-0 failed: no such image"),
    ],
)
def test_a_worker_that_ends_too_early_is_named_with_the_end_of_its_log(
    valkey: EmbeddedValkey, tmp_path: Path, happens: Callable[[FakeLauncher], None], says: str
) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        happens(stage.launcher)

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url)
    assert stage.states() == ["starting", "failed"]
    assert stage.summary()["message"].startswith(f"{says}\nend of log of ")
    failure = stage.failure()
    assert (failure.message, failure.log_end) == (says, "the last words")


def test_a_full_disk_comes_first_and_is_one_sentence(tmp_path: Path) -> None:
    refusals: list[str] = []

    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        await eventually(lambda: stage.states() == ["starting"])
        fill(tmp_path / "disk")
        with contextlib.suppress(BusError):
            for number in range(1000):
                await bus.payloads.put({bus.payloads.payload_key("ballast", number, 0): bytes(1 << 16)})
        try:
            await bus.payloads.put({bus.payloads.payload_key("ballast", 0, 1): b"x"})
        except BusError as error:
            refusals.append(str(error))
        await bus.close()
        await eventually(lambda: stage.states()[-1] == "failed")

    with small_disk(tmp_path / "disk", kib=4096) as disk:
        stage = run_stage(make_spec(tmp_path, staleness=1), disk / "run", play, url=None)
    message = stage.driver.snapshot().message
    assert refusals, "Valkey took what its disk has no room for"
    assert "cannot write its data to its disk" in refusals[0]
    assert message.startswith(f"the disk is full: {disk}/run (0.")
    assert "MiB are free). Free some space" in message.splitlines()[0]


@pytest.mark.parametrize("log_is_there", [True, False])
def test_a_worker_that_a_disk_refuses_says_so_in_its_own_words(
    valkey: EmbeddedValkey, tmp_path: Path, log_is_there: bool
) -> None:
    said = "the checkpoint of step 2 cannot be written: permission denied: /ckpt. Allow writing there"
    launcher = FakeLauncher()
    launcher.last_words = f"INFO step 2\nerror: {said}" if log_is_there else "INFO step 2"

    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        stage.launcher.end(RUN, "learner-0", os.EX_IOERR)

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url, launcher=launcher)
    message = stage.summary()["message"]
    if log_is_there:
        assert message == f"learner-0: {said}"
    else:
        assert message.startswith("learner-0 exited with code 74\nend of log")


def test_what_cannot_be_placed_fails_the_run_in_words(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        pass

    launcher = FakeLauncher(refuses="the run needs 2 GPUs, and 1 is free")
    spec = make_spec(tmp_path, staleness=1)
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url, launcher=launcher)
    assert stage.summary()["message"] == "the run needs 2 GPUs, and 1 is free"


def test_a_worker_that_outlives_the_stop_makes_the_run_fail(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        await stage.driver.stop()

    launcher = FakeLauncher(stops=False)
    spec = make_spec(tmp_path, staleness=1)
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url, launcher=launcher)
    assert stage.states()[-1] == "failed"
    assert stage.summary()["message"] == "stopped on request\ngenerator-0 would not go"


def test_a_failed_service_is_named_though_redis_is_gone(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        await eventually(lambda: stage.states() == ["starting"])
        os.kill(server.pid, signal.SIGSTOP)  # what it holds cannot be asked for any more
        stage.launcher.end(RUN, "generator-0", 1)

    server = EmbeddedValkey(tmp_path / "valkey", memory_mib=256)
    with server:
        try:
            stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=server.url)
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert stage.states()[-1] == "failed"
    assert "generator-0 exited with code 1\nend of log of generator-0:\nthe last words" in stage.summary()["message"]
    assert stage.failure().worker_id == "generator-0"
    assert [event.id for event in stage.seen] == sorted({event.id for event in stage.seen}, key=order)


def test_of_workers_that_end_together_the_one_that_was_killed_is_named(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """When a learner rank is killed, the others fail at once for want of it."""

    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        stage.launcher.end(RUN, "learner-0", 1)
        stage.launcher.end(RUN, "learner-1", -9)

    resources = {"learner": {"ranks": 2}, "restarts": {"limit": 0}}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": resources})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.failure().worker_id == "learner-1"


def order(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))
