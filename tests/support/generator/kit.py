"""What the generator's integration tests share: a run in a real Valkey, a generator as a task, a learner's voice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from dapo.bus import Bus
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.server import EngineServer
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator
from tests.support.weights import WeightSender, describe_bucket, named_weights, split_buckets

WAIT_S = 120.0
POLL_S = 0.05


def make_spec(model: Path, **sections: Any) -> RunSpec:
    tree = {
        "model": {"path": str(model)},
        "data": {"path": "unused.jsonl", "max_prompt_tokens": 400},
        "sampling": {"group_size": 4, "max_response_tokens": 32},
        "reward": {"overlong_buffer_tokens": 8},
        "training": {"prompts_per_step": 4, "updates_per_step": 1},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return RunSpec.model_validate(tree)


def make_task(number: int, text: str, *, group_size: int = 4) -> pb.PromptTask:
    return pb.PromptTask(
        group_id=f"g{number:010d}", row_id=str(number), prompt=pb.Prompt(text=text), gold="", group_size=group_size
    )


async def until(condition: Callable[[], Awaitable[Any]], what: str, wait_s: float = WAIT_S) -> Any:
    """The first true value of `condition`; fails after `wait_s`."""
    for _ in range(int(wait_s / POLL_S)):
        if value := await condition():
            return value
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"waited {wait_s:g} s in vain: {what}")


@asynccontextmanager
async def running(
    bus: Bus, spec: RunSpec, worker_id: str, server: EngineServer, *, evaluates: bool = False
) -> AsyncIterator[Generator]:
    """A generator at work; stopped as SIGTERM stops it."""
    generator = Generator(bus, spec, worker_id, server, PromptCodec(spec.model.path), evaluates=evaluates)
    task = asyncio.create_task(generator.run())
    try:
        yield generator
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Learner:
    """Sends commands to one generator and awaits its replies, as the learner's publisher does."""

    def __init__(self, bus: Bus, generator_id: str, incarnation: int = 1) -> None:
        self._bus = bus
        self._id = generator_id
        self._incarnation = incarnation
        self._serial = incarnation << 32
        self._after = "0"

    async def send(self, deadline_s: float = 30.0, **command: Any) -> int:
        self._serial += 1
        message = pb.WeightCommand(serial=self._serial, deadline_s=deadline_s, incarnation=self._incarnation, **command)
        await self._bus.weights.send_command(self._id, message)
        return self._serial

    async def reply(self, serial: int) -> pb.WeightReply:
        """The next reply to that command."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for position, reply in await self._bus.weights.read_replies(self._id, self._after, block_s=0.5):
                    self._after = position
                    if reply.serial == serial:
                        return reply

    async def member(self) -> pb.Member | None:
        return next((member for member in await self._bus.weights.members() if member.generator_id == self._id), None)

    async def wait_state(self, state: str, *, has_version: bool, wait_s: float = WAIT_S) -> pb.Member:
        async def reached() -> pb.Member | None:
            member = await self.member()
            fits = member is not None and member.state == state and member.HasField("version") == has_version
            return member if fits else None

        member: pb.Member = await until(reached, f"{self._id} {state}, version: {has_version}", wait_s)
        return member

    async def join(self, group: str) -> WeightSender:
        sender = WeightSender(group)
        serial = await self.send(join=sender.join_message())
        _, reply = await asyncio.gather(sender.join(), self.reply(serial))
        assert (reply.phase, reply.error) == ("done", "")
        return sender

    async def publish(self, sender: WeightSender, model: Any, version: pb.Version, *, buckets: int) -> pb.WeightReply:
        """Broadcast all weights; returns the final reply."""
        parts: list[list[tuple[str, Tensor]]] = split_buckets(named_weights(model), buckets)
        update = pb.UpdateWeights(
            group_name=sender.group, version=version, buckets=[describe_bucket(part) for part in parts]
        )
        serial = await self.send(update=update)
        ready = await self.reply(serial)
        assert (ready.phase, ready.error) == ("ready", "")
        for part in parts:
            await sender.broadcast(part)
        return await self.reply(serial)

    async def announce(self, version: pb.Version) -> None:
        """Have a simulated engine serve `version`: no tensor travels."""
        group = f"{self._id}-{self._serial}"
        joined = await self.reply(await self.send(join=pb.JoinGroup(group_name=group, world_size=2, backend="gloo")))
        assert joined.phase == "done", joined.error
        bucket = pb.WeightBucket(tensors=[pb.TensorSpec(name="weight", dtype="float32", shape=[1])])
        serial = await self.send(update=pb.UpdateWeights(group_name=group, version=version, buckets=[bucket]))
        assert (await self.reply(serial)).phase == "ready"
        done = await self.reply(serial)
        assert done.phase == "done", done.error
