"""Grading by remote graders, with deadlines that suit tests."""

import asyncio
from collections.abc import Awaitable, Callable

from dapo.spec.tree.graders import AnyGrader, JudgeGrader, RemoteGrader
from dapo.spec.tree.reward import RewardSpec
from services.verifier.graders import Verdict
from services.verifier.grading.dispatch import Grading
from services.verifier.request import GradingRequest

FAST = {"timeout_s": 1.0, "retries": 2}


def use(graders: dict[str, AnyGrader], action: Callable[[Grading], Awaitable[None]]) -> None:
    async def main() -> None:
        grading = Grading(graders, RewardSpec(grader_processes=1))
        running = asyncio.create_task(grading.run())
        try:
            await action(grading)
            assert not running.done(), running.exception()
        finally:
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(main())


def grade(options: RemoteGrader | JudgeGrader, *texts: str, prompt: str = "Why?", gold: str = "42") -> list[Verdict]:
    found: list[Verdict] = []

    async def action(grading: Grading) -> None:
        found.extend(await grading.grade([GradingRequest("mine", text, gold, prompt) for text in texts]))

    use({"mine": options}, action)
    return found
