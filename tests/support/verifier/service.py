"""A verifier at work on a bus, and completions for it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from dapo.bus import Bus, Delivery
from dapo.spec import RunSpec
from dapo.spec.tree.graders import PythonGrader
from dapo.v1 import messages_pb2 as pb
from services.verifier.grading.dispatch import Grading
from services.verifier.worker import Verifier
from tests.support.bus import RUN, stream_length

MISBEHAVING = PythonGrader(function="tests.support.verifier.graders:misbehave", max_characters=1_000_000)
WAIT_S = 60.0
POLL_S = 0.05


def make_spec(*, sections: dict[str, Any] | None = None, **reward: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "model": {"path": "m"},
            "data": {"path": "d.jsonl"},
            "sampling": {"group_size": 4, "max_response_tokens": 20},
            "reward": {"overlong_buffer_tokens": 10, **reward},
            **(sections or {}),
        }
    )


async def write_group(
    bus: Bus,
    number: int,
    texts: Sequence[bytes | None],
    *,
    grader: str = "exact",
    gold: str = "good",
    tokens: int = 5,
    finish: pb.FinishReason = pb.FINISH_REASON_STOP,
    evaluation: str = "",
) -> str:
    """A generated group, a response for each text; None leaves the payload out."""
    group_id = f"g{number:010d}"
    epoch = await bus.lease.acquire("orchestrator")
    task = pb.PromptTask(group_id=group_id, gold=gold, grader=grader, group_size=len(texts), evaluation=evaluation)
    await bus.groups.issue([task], epoch)
    completions = [
        pb.Completion(
            group_id=group_id,
            index=index,
            attempt=1,
            payload_key=bus.payloads.payload_key(group_id, index, 1),
            text_key=bus.payloads.text_key(group_id, index, 1),
            response_tokens=tokens + index,
            finish_reason=finish,
        )
        for index in range(len(texts))
    ]
    blobs = {one.text_key: text for one, text in zip(completions, texts, strict=True) if text is not None}
    if blobs:
        await bus.payloads.put(blobs)
    await bus.groups.write_completions(completions)
    return group_id


@asynccontextmanager
async def verifying(bus: Bus, spec: RunSpec, worker_id: str = "verifier-0") -> AsyncIterator[None]:
    """A verifier at work in this process, its grading in processes of its own."""
    grading = Grading({**spec.named_graders, "misbehaving": MISBEHAVING}, spec.reward)
    task = asyncio.create_task(Verifier(bus, grading, spec, worker_id).run())
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def scored(bus: Bus, count: int) -> list[Delivery]:
    """The next `count` entries of `scored`, and no more than those."""
    found: list[Delivery] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await bus.streams.consume("scored", "orchestrator-0", count=1000, block_s=1)
    assert len(found) == count
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(int(WAIT_S / POLL_S)):
        if await condition():
            return
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"waited {WAIT_S:g} s in vain")


async def assert_all_done(bus: Bus) -> None:
    assert await stream_length(bus, "completions") == 0
    assert await stream_length(bus, "scored") == 0


async def settle_all(bus: Bus, deliveries: Sequence[Delivery]) -> None:
    epoch = await bus.lease.acquire("orchestrator")
    for delivery in deliveries:
        await bus.groups.settle(delivery, delivery.data.decode(), "filtered", "", epoch)


async def nothing_waits(bus: Bus) -> bool:
    return not await stream_length(bus, "completions")


def start_service(url: str, worker_id: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "DAPO_RUN_ID": RUN, "DAPO_REDIS_URL": url, "DAPO_WORKER_ID": worker_id, "DAPO_RUN_DIR": "."}
    return subprocess.Popen([sys.executable, "-m", "services.verifier"], env=env, stderr=subprocess.PIPE)
