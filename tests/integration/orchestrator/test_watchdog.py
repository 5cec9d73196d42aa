"""A run that stands still, with scripted services: what it waits for is told, who holds it is started again."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dapo.bus import Bus, BusFull
from dapo.bus.keys import LEARNER_STEP, LEFT_OUT
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import WAITING, WAITING_OVER, Alert, ServiceChanged
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from tests.support.orchestrator.control import PROMPTS, STEPS, Verdict, Workers, make_spec
from tests.support.orchestrator.stage import RUN, Stage, run_stage
from tests.support.waiting import beside, eventually

Work = Callable[[Workers], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.orchestrator.control.watchdog._LOOK_S", 0.05)


def impatient(tmp_path: Path, *, stall_s: float, alert_s: float = 0.1, **algorithm: Any) -> RunSpec:
    restarts = {"wait_alert_s": alert_s, "stall_s": stall_s, "pause_s": 0.0}
    generator = {"request_silence_s": 0.1, "start_deadline_s": 0.1}
    tree = {"resources": {"restarts": restarts, "generator": generator}}
    return make_spec(tmp_path, staleness=1, tree=tree, **algorithm)


def causes(stage: Stage, cause: str) -> list[Alert]:
    return [event for _, event in stage.seen if isinstance(event, Alert) and event.cause == cause]


async def stand(bus: Bus, stream: str, worker_id: str) -> None:
    """Takes whatever comes and does nothing with it."""
    while True:
        await bus.streams.consume(stream, worker_id, count=64, block_s=0.2)


def every_other(group_id: str, index: int) -> bool:
    return index % 2 == 0


async def play_with(stage: Stage, *work: Work, until: Callable[[], object], correct: Verdict = every_other) -> None:
    bus = await stage.bus()
    workers = Workers(bus, correct)
    try:
        async with beside(*(one(workers) for one in work)):
            await eventually(until)
    finally:
        await bus.close()


async def end_of(stage: Stage, workers: Workers) -> None:
    """The learner, to its last checkpoint."""
    await workers.learn()
    epoch = await workers.bus.lease.acquire("learner")
    await workers.bus.batches.commit_checkpoint(STEPS - 1, epoch)


def test_a_generator_that_does_nothing_is_told_of_and_started_again(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        async def generate(workers: Workers) -> None:
            idle = await Bus.connect(valkey.url, RUN, instance="idle")
            standing = asyncio.create_task(stand(idle, "prompts", "generator-0"))
            await idle.registry.beat("generator", "generator-0", ttl_s=60)
            await idle.weights.publish_member(pb.Member(generator_id="generator-0", state="ready"))
            await eventually(lambda: stage.launcher.restarted)
            standing.cancel()
            await asyncio.sleep(0.5)  # its last read may still be served
            await idle.streams.leave("prompts", "generator-0")
            await idle.close()
            await workers.generate("generator-0", 1)

        await play_with(
            *(stage, generate, Workers.verify, lambda workers: end_of(stage, workers)),
            until=lambda: bool({"succeeded", "failed"} & set(stage.states())),
        )

    stage = run_stage(impatient(tmp_path, stall_s=1.0), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"
    assert stage.launcher.restarted == [["generator-0"]]
    first, *_ = causes(stage, WAITING)
    held = r"step 1 waits \d+ s for group g0000000000, held by generator-0 since [\d:]{8}, which serves no weights"
    assert re.fullmatch(held, first.message)
    assert (first.group_id, first.worker_id) == ("g0000000000", "generator-0")
    (over, *_) = causes(stage, WAITING_OVER)
    assert over.message.startswith("the run goes on, after nothing had moved for ")
    ended = [event for _, event in stage.seen if isinstance(event, ServiceChanged) and event.state == "ended"]
    assert ended[0].message is not None
    assert re.match(f"generator-0 does not get on: {held}; generator-0 is started again", ended[0].message)


def test_what_the_first_weights_wait_for_is_told_and_nobody_is_started_again(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def start_slowly(workers: Workers) -> None:
        await workers.bus.registry.beat("learner", "learner-0", ttl_s=60)
        await workers.bus.registry.beat("generator", "generator-0", ttl_s=60)
        await workers.bus.weights.publish_member(pb.Member(generator_id="generator-0", state="starting"))

    async def play(stage: Stage) -> None:
        await play_with(stage, start_slowly, until=lambda: causes(stage, WAITING))
        await play_with(stage, Workers.learn, until=lambda: causes(stage, WAITING_OVER))
        await stage.driver.stop()

    resources = {"learner": {"ranks": 2}, "generator": {"replicas": 2}}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"restarts": {"wait_alert_s": 0.1}, **resources}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert re.fullmatch(
        r"the run waits \d+ s for its first weights: generator-0 serves no weights, generator-1 sends no heartbeat, "
        "learner-0 has published none, learner-1 sends no heartbeat",
        causes(stage, WAITING)[0].message,
    )
    assert stage.launcher.restarted == []


def test_a_generator_that_gets_no_weights_for_now_is_told_of_with_the_reason(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def publish(workers: Workers) -> None:
        """A version that the generator does not get: it has that of a learner before."""
        epoch = await workers.bus.lease.acquire("learner")
        old, new = pb.Version(incarnation=epoch - 1), pb.Version(incarnation=epoch)
        await workers.bus.registry.announce(LEFT_OUT.format("generator-0"), "weight update: no such tensor", 60.0)
        await workers.bus.registry.beat("generator", "generator-0", ttl_s=60)
        await workers.bus.weights.publish_member(pb.Member(generator_id="generator-0", state="ready", version=old))
        await workers.bus.weights.publish_version(new, epoch)

    async def play(stage: Stage) -> None:
        await play_with(stage, publish, until=lambda: causes(stage, WAITING))
        await stage.driver.stop()

    stage = run_stage(impatient(tmp_path, stall_s=60.0), tmp_path / "run", play, url=valkey.url)
    assert re.fullmatch(
        r"step 1 waits \d+ s for group g0000000000, which no generator has taken: "
        r"generator-0 is left out of new weights \(weight update: no such tensor\)",
        causes(stage, WAITING)[0].message,
    )


@pytest.mark.parametrize(
    ("stands", "says", "unit"),
    [
        ("verifier", r"the grades of group g\d+, held by verifier-0 since ", "verifier-0"),
        ("learner", "the learner, which has its batch", "learner-0"),
    ],
)
def test_what_no_restart_mends_ends_the_run_in_words(
    valkey: EmbeddedValkey, tmp_path: Path, stands: str, says: str, unit: str
) -> None:
    async def learn(workers: Workers) -> None:
        if stands != "learner":
            return await workers.learn()
        epoch = await workers.bus.lease.acquire("learner")
        await workers.bus.weights.publish_version(pb.Version(incarnation=epoch, step=0), epoch)

    async def verify(workers: Workers) -> None:
        await (stand(workers.bus, "completions", "verifier-0") if stands == "verifier" else workers.verify())

    async def play(stage: Stage) -> None:
        await play_with(
            *(stage, learn, verify, lambda workers: workers.generate("generator-0", 1)),
            until=lambda: "failed" in stage.states(),
        )

    stage = run_stage(impatient(tmp_path, stall_s=1.0), tmp_path / "run", play, url=valkey.url)
    assert stage.launcher.restarted == [[unit]] * 3
    assert stage.summary()["ledger"]["failed"] == (3 if stands == "verifier" else 0)
    message = stage.summary()["message"]
    assert message.startswith("the run stands still: step 1 waits ")
    assert re.search(says, message)
    assert message.endswith("after 1 s without any progress (resources.restarts.stall_s), and restarts did not help")


def test_a_group_that_holds_up_whoever_has_it_is_given_up_and_the_run_goes_on(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def generate(workers: Workers) -> None:
        """Never answers the third prompt."""
        await workers.bus.registry.beat("generator", "generator-0", ttl_s=600)
        while True:
            for delivery in await workers.bus.streams.consume("prompts", "generator-0", count=1, block_s=0.2):
                if delivery.data != b"g0000000002":
                    await workers.answer(await workers.bus.groups.read_task(delivery.data.decode()))

    async def play(stage: Stage) -> None:
        await play_with(
            *(stage, generate, Workers.verify, lambda workers: end_of(stage, workers)),
            until=lambda: bool({"succeeded", "failed"} & set(stage.states())),
        )

    stage = run_stage(impatient(tmp_path, stall_s=1.0), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"
    assert stage.launcher.restarted == [["generator-0"]] * 3
    assert stage.summary()["ledger"]["failed"] == 1
    assert any(alert.startswith("group g0000000002 failed: stalled") for alert in stage.alerts())


def test_a_server_that_stays_full_ends_the_run_in_words_and_restarts_nobody(tmp_path: Path) -> None:
    async def generate(workers: Workers) -> None:
        """As generators do: what the server refuses is tried again."""
        await workers.bus.control_server.client.config_set("maxmemory", 1 << 16)
        while True:
            try:
                await workers.generate("generator-0", 1)
            except BusFull:
                await asyncio.sleep(0.1)

    async def play(stage: Stage) -> None:
        await play_with(stage, generate, Workers.verify, Workers.learn, until=lambda: "failed" in stage.states())

    with EmbeddedValkey(tmp_path / "valkey", 64) as server:
        stage = run_stage(impatient(tmp_path, stall_s=1.0), tmp_path / "run", play, url=server.url)
        says = f"memory: the server at {server.url} has reached its own limit (maxmemory)"
    assert stage.summary()["message"].startswith("the run stands still: the run waits ")
    assert says in stage.summary()["message"]
    assert causes(stage, WAITING)[0].message.endswith(says)
    assert stage.launcher.restarted == []


def test_a_learner_that_trains_old_batches_again_is_left_alone(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Neither a version is published nor a step recorded, for longer than the bound."""

    async def play(stage: Stage) -> None:
        async def learn(workers: Workers) -> None:
            epoch = await workers.bus.lease.acquire("learner")
            await workers.bus.weights.publish_version(pb.Version(incarnation=epoch, step=0), epoch)
            while not await workers.bus.batches.read(-1, block_s=0.2):
                pass
            for step in range(1, 31):
                await workers.bus.registry.announce(LEARNER_STEP, f"{epoch}.{step}", 60.0)
                await asyncio.sleep(0.2)
            await end_of(stage, workers)

        await play_with(
            *(stage, learn, Workers.verify, lambda workers: workers.generate("generator-0", 1)),
            until=lambda: bool({"succeeded", "failed"} & set(stage.states())),
        )

    stage = run_stage(impatient(tmp_path, stall_s=2.0), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"
    assert stage.launcher.restarted == []


def test_a_slow_run_that_gets_on_is_left_alone(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Whole steps take longer than the bound; no response is finished meanwhile, but tokens come."""

    async def play(stage: Stage) -> None:
        async def generate(workers: Workers) -> None:
            bus = workers.bus
            await bus.registry.beat("generator", "generator-0", ttl_s=60)
            for tokens in range(1, 31):
                await bus.weights.publish_member(
                    pb.Member(generator_id="generator-0", state="ready", generated_tokens=tokens)
                )
                await asyncio.sleep(0.1)
            await workers.generate("generator-0", 1)

        await play_with(
            *(stage, generate, Workers.verify, lambda workers: end_of(stage, workers)),
            until=lambda: bool({"succeeded", "failed"} & set(stage.states())),
        )

    stage = run_stage(impatient(tmp_path, alert_s=2.0, stall_s=2.0), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"
    assert causes(stage, WAITING) == []
    assert stage.launcher.restarted == []


def test_a_learner_that_says_what_it_does_is_left_alone(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """The last checkpoint, when no batch is in training, takes longer than the bound."""

    async def play(stage: Stage) -> None:
        async def learn(workers: Workers) -> None:
            await workers.learn()
            epoch = await workers.bus.lease.acquire("learner")
            for written in range(20):
                await workers.bus.registry.announce(LEARNER_STEP, f"{epoch}.{STEPS} saving: {written} bytes", 60.0)
                await asyncio.sleep(0.2)
            await workers.bus.batches.commit_checkpoint(STEPS - 1, epoch)

        await play_with(
            *(stage, learn, Workers.verify, lambda workers: workers.generate("generator-0", 1)),
            until=lambda: bool({"succeeded", "failed"} & set(stage.states())),
        )

    stage = run_stage(impatient(tmp_path, stall_s=2.0), tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"
    assert stage.launcher.restarted == []


@pytest.mark.parametrize("early", [False, True])
def test_a_learner_that_hangs_in_its_last_checkpoint_is_started_again(
    valkey: EmbeddedValkey, tmp_path: Path, early: bool
) -> None:
    """Also where the run has ended before its last step."""

    async def play(stage: Stage) -> None:
        async def learn(workers: Workers) -> None:
            await workers.learn()
            await eventually(lambda: stage.launcher.restarted or "failed" in stage.states())
            epoch = await workers.bus.lease.acquire("learner")
            await workers.bus.batches.commit_checkpoint(len(workers.batches) - 1, epoch)

        def correct(group_id: str, index: int) -> bool:
            return index % 2 == 0 and not (early and int(group_id[1:]) >= PROMPTS)

        await play_with(
            *(stage, learn, Workers.verify, lambda workers: workers.generate("generator-0", 1)),
            until=lambda: bool({"succeeded", "failed"} & set(stage.states())),
            correct=correct,
        )

    spec = impatient(tmp_path, stall_s=2.0, max_uniform_batches=2)
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert any(alert.startswith("the run ends with step 1: ") for alert in stage.alerts()) == early
    assert stage.launcher.restarted == [["learner-0"]]
    assert stage.states()[-1] == ("failed" if early else "succeeded")
    assert "stands still" not in (stage.summary()["message"] or "")
    told = causes(stage, WAITING)[-1].message
    assert re.fullmatch(r"the run waits \d+ s for the learner's last checkpoint", told)
