"""Every grader behind one call: local ones in the pool, the others over HTTP, weighted sums part by part."""

import asyncio
import math
from collections.abc import Mapping, Sequence

from dapo.spec.tree.graders import BUILT_IN, AnyGrader, JudgeGrader, PythonGrader, RemoteGrader, WeightedGrader
from dapo.spec.tree.reward import RewardSpec
from services.verifier.graders import Unbuildable, Verdict, encodable, is_local, read_text, scored, wrong
from services.verifier.grading.pool import GraderStartError, GradingPool, GradingRequest
from services.verifier.remote.judge import Judge
from services.verifier.remote.scores import Remote

_ROUNDING = 1e-9
"""0.1 + 0.7 is less than 0.8 in floating point."""


class Grading:
    """Invariant: every request gets exactly one verdict, in order and in words that can be written; a grader that
    fails costs the others nothing.

    `named` are the graders that the spec names (`RunSpec.named_graders`). A row of the data may name one of them or a
    built-in one, and nothing else: data chooses among rules, it brings no code. Raises GraderStartError where one of
    `named` cannot work here.
    """

    def __init__(self, named: Mapping[str, AnyGrader], reward: RewardSpec) -> None:
        self._graders = {**BUILT_IN, **named}
        fields = {name: _field(name, grader, reward) for name, grader in named.items()}
        self._pool = GradingPool(
            {name: grader for name, grader in self._graders.items() if is_local(grader)},
            timeout_s=reward.grader_timeout_s,
            required={name: field for name, field in fields.items() if is_local(named[name])},
            processes=reward.grader_processes,
            memory_mib=reward.grader_memory_mib,
        )
        self._services: dict[str, Remote | Judge] = {}
        for name, grader in named.items():
            if isinstance(grader, (RemoteGrader, JudgeGrader)):
                try:
                    self._services[name] = Remote(grader) if isinstance(grader, RemoteGrader) else Judge(grader)
                except Unbuildable as error:
                    raise GraderStartError(f"{fields[name]}: {error}") from error

    @property
    def pool(self) -> GradingPool:
        return self._pool

    async def run(self) -> None:
        """Keep what grades until cancelled. Raises GraderStartError."""
        try:
            await self._pool.run()
        finally:
            for service in self._services.values():
                await service.close()

    def is_local(self, name: str) -> bool:
        """Whether a verdict of this grader waits for no service."""
        grader = self._graders.get(name)
        parts = grader.parts if isinstance(grader, WeightedGrader) else (name,)
        return not any(part in self._services for part in parts)

    async def grade(self, requests: Sequence[GradingRequest]) -> list[Verdict]:
        by_grader: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_grader.setdefault(request.grader, []).append(index)
        parts = [self._grade_alike(name, [requests[index] for index in chosen]) for name, chosen in by_grader.items()]
        found: dict[int, Verdict] = {}
        for chosen, verdicts in zip(by_grader.values(), await asyncio.gather(*parts), strict=True):
            found.update(zip(chosen, verdicts, strict=True))
        return [encodable(found[index]) for index in range(len(requests))]

    async def _grade_alike(self, name: str, requests: Sequence[GradingRequest]) -> list[Verdict]:
        """Requests of one grader."""
        options = self._graders.get(name)
        if options is None:
            return [wrong("unknown_grader", name)] * len(requests)
        if isinstance(options, WeightedGrader):
            return await self._grade_weighted(options, requests)
        if name in self._services:
            return await self._grade_outside(self._services[name], options, requests)
        return await self._pool.grade(requests)

    async def _grade_outside(
        self, service: Remote | Judge, options: AnyGrader, requests: Sequence[GradingRequest]
    ) -> list[Verdict]:
        """A service sees no empty response, and none that is longer than it may be."""
        found = [_verdict_unseen(options, request) for request in requests]
        asked = [request for request, verdict in zip(requests, found, strict=True) if verdict is None]
        answers = iter(await service.grade(asked))
        return [next(answers) if verdict is None else verdict for verdict in found]

    async def _grade_weighted(self, options: WeightedGrader, requests: Sequence[GradingRequest]) -> list[Verdict]:
        columns = await asyncio.gather(
            *(self._grade_alike(part, [r._replace(grader=part) for r in requests]) for part in options.parts)
        )
        return [_combine(options, dict(zip(options.parts, row, strict=True))) for row in zip(*columns, strict=True)]


def _field(name: str, grader: AnyGrader, reward: RewardSpec) -> str:
    """Where the spec names it."""
    field = f"reward.graders.{name}" if name in reward.graders else f"grader {name!r}"
    return f"{field}.function" if isinstance(grader, PythonGrader) and name in reward.graders else field


def _verdict_unseen(options: AnyGrader, request: GradingRequest) -> Verdict | None:
    if not request.text.strip():
        return wrong("no_answer")
    return wrong("too_long") if read_text(options, request.text) is None else None


def _combine(options: WeightedGrader, verdicts: Mapping[str, Verdict]) -> Verdict:
    """The weighted mean of the parts' scores; of a part that failed, its failure."""
    scores = {name: verdict.score for name, verdict in verdicts.items()}
    total = math.fsum(options.parts.values())
    score = math.fsum(options.parts[name] * verdict.score for name, verdict in verdicts.items()) / total
    extracted = next((verdict.extracted for verdict in verdicts.values() if verdict.extracted), "")
    failure = next((verdict for verdict in verdicts.values() if verdict.failed), None)
    found = wrong(failure.reason, extracted) if failure else scored(score, options.threshold - _ROUNDING, extracted)
    return found._replace(parts=scores)
