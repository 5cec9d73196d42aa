"""Learner ranks as the launcher starts them, on batches that a test makes."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dapo.bus import Bus
from dapo.contracts.arrays import encode_ids, encode_logprobs
from dapo.records.checkpoints import Checkpoint, find_newest
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import RUN, group_id
from tests.support.paths import REPO

RANKS = 2
GROUP_SIZE = 4
WAIT_S = 240.0
PROMPT, RESPONSE = [1, 2, 3], [4, 5, 6, 7, 8]


def make_spec(
    model: Path,
    *,
    ranks: int = RANKS,
    every_steps: int = 2,
    keep_last: int = 1,
    memory_mib: int = 1024,
    zero_stage: int = 3,
    **checkpoint: Any,
) -> RunSpec:
    return RunSpec.model_validate(
        {
            "model": {"path": str(model)},
            "data": {"path": "unused.jsonl"},
            "sampling": {"group_size": GROUP_SIZE, "max_response_tokens": 16},
            "reward": {"overlong_buffer_tokens": 4},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0},
            "training": {"steps": 3, "prompts_per_step": 2, "updates_per_step": 2, "zero_stage": zero_stage},
            "checkpoint": {"every_steps": every_steps, "keep_last": keep_last, **checkpoint},
            "evaluation": {"sets": {"exam": {"path": "unused.jsonl"}}, "every_steps": every_steps},
            "resources": {"learner": {"ranks": ranks, "device": "cpu"}, "redis": {"memory_mib": memory_mib}},
        }
    )


def newest(run_dir: Path) -> Checkpoint | None:
    return find_newest(run_dir / "checkpoints").checkpoint


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
