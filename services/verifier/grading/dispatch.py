"""Sends each request to its grader: local ones in the pool, remote ones over HTTP, weighted ones part by part."""

import asyncio
import math
from collections.abc import Mapping, Sequence

from dapo.spec.tree.graders import BUILT_IN, AnyGrader, JudgeGrader, PythonGrader, RemoteGrader, WeightedGrader
from dapo.spec.tree.reward import RewardSpec
from services.verifier.graders import GraderSetupError, Verdict, is_local, scored, text_for_grader, utf8_safe, wrong
from services.verifier.grading.pool import GraderStartError, GradingPool
from services.verifier.instruments import GRADING_SECONDS, UNKNOWN, count_failures_from_zero
from services.verifier.remote.judge import Judge
from services.verifier.remote.scorer import RemoteScorer
from services.verifier.request import GradingRequest

_EQUAL = "equal"
"""The reason of verdicts on answers that equal the gold answer."""
_GOLDS_CLASS = "="
_ROUNDING = 1e-9
"""0.1 + 0.7 is less than 0.8 in floating point."""


class Grading:
    """All graders of a run behind one call.

    Parts: `_pool` (GradingPool) for local graders, `_services` (RemoteScorer, Judge) for remote ones. `run` must be
    going on while `grade` is awaited.

    `named` are the graders that the spec names (`RunSpec.named_graders`). A row of the data may name one of these or a
    built-in one, and nothing else, so data cannot bring code. Raises GraderStartError if one of `named` cannot be set
    up.

    Invariants: every request gets exactly one verdict, in order, and as text that UTF-8 can encode; a grader that fails
    affects no request of another. Nothing survives a restart. `grade` waits at most for the deadlines of the graders
    (`reward.grader_timeout_s`; of `code` and remote ones their `timeout_s`) and for its place in the queue.
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
        count_failures_from_zero(named)
        self._services: dict[str, RemoteScorer | Judge] = {}
        for name, grader in named.items():
            if isinstance(grader, (RemoteGrader, JudgeGrader)):
                try:
                    self._services[name] = RemoteScorer(grader) if isinstance(grader, RemoteGrader) else Judge(grader)
                except GraderSetupError as error:
                    raise GraderStartError(f"{fields[name]}: {error}") from error

    @property
    def pool(self) -> GradingPool:
        return self._pool

    async def run(self) -> None:
        """Run the grading processes until cancelled. Raises GraderStartError."""
        try:
            await self._pool.run()
        finally:
            for service in self._services.values():
                await service.close()

    def is_local(self, name: str) -> bool:
        """Whether this grader, and each part of a weighted one, runs in the pool."""
        grader = self._graders.get(name)
        parts = grader.parts if isinstance(grader, WeightedGrader) else (name,)
        return not any(part in self._services for part in parts)

    async def grade(self, requests: Sequence[GradingRequest]) -> list[Verdict]:
        """A verdict for each request, in order."""
        by_grader: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_grader.setdefault(request.grader, []).append(index)
        parts = [self._measured(name, [requests[index] for index in chosen]) for name, chosen in by_grader.items()]
        found: dict[int, Verdict] = {}
        for chosen, verdicts in zip(by_grader.values(), await asyncio.gather(*parts), strict=True):
            found.update(zip(chosen, verdicts, strict=True))
        return [utf8_safe(found[index]) for index in range(len(requests))]

    async def classify(self, requests: Sequence[GradingRequest], verdicts: Sequence[Verdict]) -> list[str]:
        """The class of each response's answer, in order: equal where its grader calls the answers equal.

        Answers that equal the gold answer are one class. Empty where there is no answer, or none that could agree.
        """
        asked = [
            request
            for request, verdict in zip(requests, verdicts, strict=True)
            if not (verdict.failed or verdict.reason == _EQUAL) and self._extracts_answer(request.grader)
        ]
        found = dict(zip(map(id, asked), await self._pool.classify(asked), strict=True))
        return [
            _GOLDS_CLASS if verdict.reason == _EQUAL else _own_class(found.get(id(request), ""), verdict)
            for request, verdict in zip(requests, verdicts, strict=True)
        ]

    def _extracts_answer(self, name: str) -> bool:
        grader = self._graders.get(name)
        return grader is not None and grader.EXTRACTS_ANSWER

    async def check_golds(self, golds: Sequence[tuple[str, str]]) -> list[str]:
        """Why no response can honestly meet the gold answer of each (grader, gold answer), in order; empty where one
        can, or its grader does not tell. Raises GraderStartError where a grader is unavailable."""
        asked = [[(part, gold) for part in self._local_parts(name)] for name, gold in golds]
        problems = iter(await self._pool.check_golds([one for parts in asked for one in parts]))
        found = [[next(problems) for _ in parts] for parts in asked]
        return [
            next(filter(None, of_parts), "") if name in self._graders else f"no grader is called {name!r}"
            for (name, _), of_parts in zip(golds, found, strict=True)
        ]

    def _local_parts(self, name: str) -> list[str]:
        grader = self._graders.get(name)
        if isinstance(grader, WeightedGrader):
            return [local for part in grader.parts for local in self._local_parts(part)]
        return [name] if grader is not None and is_local(grader) else []

    async def _measured(self, name: str, requests: Sequence[GradingRequest]) -> list[Verdict]:
        with GRADING_SECONDS.labels(name if name in self._graders else UNKNOWN).time():
            return await self._grade_alike(name, requests)

    async def _grade_alike(self, name: str, requests: Sequence[GradingRequest]) -> list[Verdict]:
        """Verdicts of requests that all name this grader."""
        options = self._graders.get(name)
        if options is None:
            return [wrong("unknown_grader", name)] * len(requests)
        if isinstance(options, WeightedGrader):
            return await self._grade_weighted(options, requests)
        if name in self._services:
            return await self._grade_remote(self._services[name], options, requests)
        return await self._pool.grade(requests)

    async def _grade_remote(
        self, service: RemoteScorer | Judge, options: AnyGrader, requests: Sequence[GradingRequest]
    ) -> list[Verdict]:
        """Empty and too long responses get their verdict here; what all others say goes to the service."""
        texts = [_text_for_service(options, request) for request in requests]
        asked = [one._replace(text=text) for one, text in zip(requests, texts, strict=True) if isinstance(text, str)]
        answers = iter(await service.grade(asked))
        return [text if isinstance(text, Verdict) else next(answers) for text in texts]

    async def _grade_weighted(self, options: WeightedGrader, requests: Sequence[GradingRequest]) -> list[Verdict]:
        columns = await asyncio.gather(
            *(self._grade_alike(part, [r._replace(grader=part) for r in requests]) for part in options.parts)
        )
        return [
            weighted_verdict(options, dict(zip(options.parts, row, strict=True))) for row in zip(*columns, strict=True)
        ]


def _field(name: str, grader: AnyGrader, reward: RewardSpec) -> str:
    """The field of the spec that names this grader, for error messages."""
    field = f"reward.graders.{name}" if name in reward.graders else f"grader {name!r}"
    return f"{field}.function" if isinstance(grader, PythonGrader) and name in reward.graders else field


def _own_class(found: str, verdict: Verdict) -> str:
    """Of an answer that is not the gold one; by its spelling where its class was not found."""
    answer = "" if verdict.failed else found or verdict.extracted
    return f"≠{answer}" if answer else ""


def _text_for_service(options: AnyGrader, request: GradingRequest) -> str | Verdict:
    """As `text_for_grader`; an empty response gets its verdict, too."""
    read = text_for_grader(options, request.text, request.begun)
    return read if isinstance(read, Verdict) or read.strip() else wrong("no_answer")


def weighted_verdict(options: WeightedGrader, verdicts: Mapping[str, Verdict]) -> Verdict:
    """The weighted mean of the parts' scores. If a part failed, its failure is that of the whole."""
    scores = {name: verdict.score for name, verdict in verdicts.items()}
    total = math.fsum(options.parts.values())
    score = math.fsum(options.parts[name] * verdict.score for name, verdict in verdicts.items()) / total
    extracted = next((verdict.extracted for verdict in verdicts.values() if verdict.extracted), "")
    failure = next((verdict for verdict in verdicts.values() if verdict.failed), None)
    found = wrong(failure.reason, extracted) if failure else scored(score, options.threshold - _ROUNDING, extracted)
    unclosed = any(verdict.unclosed_thinking for verdict in verdicts.values())
    return found._replace(parts=scores, unclosed_thinking=unclosed)
