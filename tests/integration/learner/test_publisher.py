"""The sending end of the weight channel over real gloo and a real Valkey: failures stay with the member that fails."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from dapo.bus import Bus  # noqa: E402
from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from dapo.spec.tree.training import WeightSyncSpec  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from services.learner.weights import publisher as publisher_module  # noqa: E402
from services.learner.weights.publisher import _FAILURE_LIMIT, Publisher, WeightSyncError  # noqa: E402
from tests.support.bus import read_alerts  # noqa: E402
from tests.support.learner.weight_receiver import Receiver  # noqa: E402

WAIT_S = 60.0
BUCKETS = [torch.arange(100, dtype=torch.uint8), torch.arange(37, dtype=torch.uint8)]
SPECS = [
    pb.WeightBucket(tensors=[pb.TensorSpec(name=f"tensor{i}", dtype="uint8", shape=[bucket.numel()])])
    for i, bucket in enumerate(BUCKETS)
]


async def until(condition: Callable[[], Awaitable[bool]], publisher: Publisher) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await publisher.refresh()
            await asyncio.sleep(0.02)


class Stage:
    """One publisher and its receivers on one event loop."""

    def __init__(self, bus: Bus, epoch: int, receivers: list[Receiver], **deadlines: float) -> None:
        self.bus = bus
        self.epoch = epoch
        self.receivers = receivers
        spec = WeightSyncSpec(**{"join_deadline_s": 20.0, "update_deadline_s": 20.0, **deadlines})
        self.publisher = Publisher(bus, epoch, spec, SPECS, 0, address="127.0.0.1", devices=())

    async def joined(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.publisher._channels) == count

        await until(enough, self.publisher)

    async def publish(self, step: int) -> float | None:
        await self.publisher.begin(step)
        for bucket in BUCKETS:
            await self.publisher.feed(bucket)
        return await self.publisher.finish(step)

    async def published(self) -> tuple[int, int] | None:
        version = await self.bus.weights.published_version()
        return None if version is None else (version.incarnation, version.step)


Scenario = Callable[[Stage], Awaitable[None]]


def play(server: EmbeddedValkey, faults: dict[str, str | None], scenario: Scenario, **deadlines: float) -> None:
    async def main() -> None:
        bus = await Bus.connect(server.url, "test-run")
        receivers = [Receiver(bus, name, fault) for name, fault in faults.items()]
        stage = Stage(bus, await bus.lease.acquire("learner"), receivers, **deadlines)
        tasks = [asyncio.create_task(receiver.run()) for receiver in receivers]
        try:
            await scenario(stage)
            for task in tasks:
                assert not task.done() or task.exception() is None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await bus.close()

    asyncio.run(main())


def assert_received(receiver: Receiver, updates: int) -> None:
    assert len(receiver.received) == updates
    for buckets in receiver.received:
        for found, sent in zip(buckets, BUCKETS, strict=True):
            assert torch.equal(found, sent)


def test_every_member_gets_every_bucket_and_then_the_version_is_published(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        assert await stage.publish(0) is None
        assert await stage.published() is None
        await stage.joined(2)
        assert await stage.publisher.waiting(0)
        for step in (0, 1):
            assert await stage.publish(step) is not None
            assert await stage.published() == (stage.epoch, step)
            assert not await stage.publisher.waiting(step)
        for receiver in stage.receivers:
            assert_received(receiver, 2)
            assert receiver.member.version == pb.Version(incarnation=stage.epoch, step=1)

    play(valkey, {"generator-0": None, "generator-1": None}, scenario)


@pytest.mark.parametrize("fault", ["refuse-update", "hang-update"])
def test_a_failing_member_is_left_behind_and_comes_back(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(publisher_module, "_RETRY_S", 0.1)

    async def scenario(stage: Stage) -> None:
        good, bad = stage.receivers
        await stage.joined(2)
        assert await stage.publish(0) is not None
        assert await stage.published() == (stage.epoch, 0)
        assert_received(good, 1)
        assert bad.received == []
        alerts = await read_alerts(stage.bus)
        assert [(alert["kind"], alert["generator"]) for alert in alerts] == [("weight_update_failed", bad.name)]
        bad.fault = None
        await stage.joined(2)
        assert await stage.publisher.waiting(0)
        await stage.publish(0)
        assert_received(bad, 1)
        assert_received(good, 1)

    play(valkey, {"generator-0": None, "generator-1": fault}, scenario, update_deadline_s=3.0)


def test_a_member_that_never_joins_holds_up_nobody(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.joined(1)
        assert await stage.publish(0) is not None
        assert await stage.published() == (stage.epoch, 0)
        assert stage.receivers[1].received == []

        async def alerted() -> bool:
            return any(alert.get("kind") == "weight_join_failed" for alert in await read_alerts(stage.bus))

        await until(alerted, stage.publisher)

    play(valkey, {"generator-0": None, "generator-1": "hang-join"}, scenario, join_deadline_s=2.0)


def test_a_generator_that_started_anew_is_joined_and_served_again(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        (receiver,) = stage.receivers
        await stage.joined(1)
        await stage.publish(3)
        receiver.member.ClearField("version")
        await receiver.announce()

        async def asked_for_weights() -> bool:
            return await stage.publisher.waiting(3)

        await until(asked_for_weights, stage.publisher)
        await stage.publish(3)
        assert_received(receiver, 2)

    play(valkey, {"generator-0": None}, scenario)


def test_a_run_whose_generators_are_all_gone_goes_on(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        (receiver,) = stage.receivers
        await stage.joined(1)
        await stage.publish(0)
        receiver.member.state = "stopped"
        await receiver.announce()
        await stage.joined(0)
        assert await stage.publish(1) is not None
        assert await stage.published() == (stage.epoch, 1)

    play(valkey, {"generator-0": None}, scenario)


@pytest.mark.parametrize(("fault", "phase"), [("refuse-update", "update"), ("hang-join", "join")])
def test_a_member_that_fails_again_and_again_ends_the_learner(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, fault: str, phase: str
) -> None:
    monkeypatch.setattr(publisher_module, "_RETRY_S", 0.0)

    async def scenario(stage: Stage) -> None:
        pattern = rf"generator-0: {_FAILURE_LIMIT} .* in phase {phase}: .* weight_sync\.{phase}_deadline_s \(now 1 s\)"

        async def keep_trying() -> None:
            while True:
                await stage.joined(1)
                await stage.publish(0)

        with pytest.raises(WeightSyncError, match=pattern):
            await keep_trying()
        alerts = [alert["kind"] for alert in await read_alerts(stage.bus)]
        assert alerts == [f"weight_{phase}_failed"] * _FAILURE_LIMIT

    play(valkey, {"generator-0": fault}, scenario, update_deadline_s=1.0, join_deadline_s=1.0)


def test_an_update_that_succeeds_forgives_the_failures_before_it(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "_RETRY_S", 0.0)

    async def scenario(stage: Stage) -> None:
        (receiver,) = stage.receivers
        for step in range(2):
            receiver.fault = "refuse-update"
            for _ in range(_FAILURE_LIMIT - 1):
                await stage.joined(1)
                await stage.publish(step)
            receiver.fault = None
            await stage.joined(1)
            await stage.publish(step)
            assert len(receiver.received) == step + 1

    play(valkey, {"generator-0": None}, scenario)


def test_a_member_is_not_judged_by_what_was_read_before_its_update(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.joined(1)
        read = stage.bus.weights.members

        async def slow_members() -> list[pb.Member]:
            members = await read()
            await stage.publish(0)
            return members

        monkeypatch.setattr(stage.bus.weights, "members", slow_members)
        await stage.publisher.refresh()
        assert [channel.served for channel in stage.publisher._channels.values()] == [
            pb.Version(incarnation=stage.epoch, step=0)
        ]

    play(valkey, {"generator-0": None}, scenario)
