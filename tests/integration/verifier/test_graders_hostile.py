"""Graders that read text, against texts that a model under pressure might write, through the real pool."""

import asyncio
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dapo.spec.tree.graders import AnyGrader, RegexGrader
from dapo.spec.tree.reward import RewardSpec
from services.verifier.graders import Verdict
from services.verifier.grading.dispatch import Grading
from services.verifier.request import GradingRequest
from tests.support.verifier.hostile_texts import MATHS, TEXTS, WRAPPERS

for library in ("math_verify", "jsonschema", "reasoning_gym"):
    pytest.importorskip(library, reason="pip install '.[graders,reasoning-gym]'")

PROCESSES = 2
TIMEOUT_S = 5.0
"""More than an honest answer takes on a busy machine."""
GRADERS: Mapping[str, AnyGrader] = {
    "regex": RegexGrader(pattern="#### (.*)"),
    "slow_regex": RegexGrader(pattern="(a+)+$"),
    "form": RegexGrader(pattern="(x+x+)+y", compare=False),
}

GOLDS = {
    "math_verify": "31",
    "math_dapo": "31",
    "exact": "the one right answer",
    "regex": "31",
    "arithmetic": json.dumps({"numbers": [31, 2], "target": 62}),
    "json_schema": json.dumps({"type": "object", "required": ["answer"]}),
    "reasoning_gym": json.dumps({"task": "prime_factorization", "answer": "31 × 31", "metadata": {}}),
}
HONEST = {
    "math_verify": "So it is $\\boxed{\\frac{62}{2}}$.",
    "math_dapo": "Answer: 31",
    "exact": "the one right answer\n",
    "regex": "#### 31",
    "arithmetic": "<answer>2 * 31</answer>",
    "json_schema": '```json\n{"answer": 3}\n```',
    "reasoning_gym": "<answer>31 × 31</answer>",
}


NOISE = ("a" * 9_000, "31 " * 3_000, "\\(" * 2_000)


def ask(grader: str, *texts: str) -> list[GradingRequest]:
    return [GradingRequest(grader, text, GOLDS[grader]) for text in texts]


def grading_processes() -> int:
    """Grading processes that this one started."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found += (
                    parent == os.getpid()
                    and b"services.verifier.grading.child_main" in (entry / "cmdline").read_bytes()
                )
            except OSError:
                continue
    return found


def reasons(verdicts: Sequence[Verdict]) -> Counter[str]:
    return Counter(verdict.reason for verdict in verdicts)


def grade_all(requests: Sequence[GradingRequest]) -> list[Verdict]:
    """Verdicts of `requests`; then the pool must serve honest requests with all its processes."""

    async def main() -> list[Verdict]:
        grading = Grading(GRADERS, RewardSpec(grader_timeout_s=TIMEOUT_S, grader_processes=PROCESSES))
        running = asyncio.create_task(grading.run())
        try:
            verdicts = await grading.grade(requests)
            honest = await grading.grade([ask(name, text)[0] for name, text in HONEST.items()] * 10)
            assert [verdict.correct for verdict in honest] == [True] * len(honest)
            assert grading_processes() == PROCESSES
        finally:
            running.cancel()
            await asyncio.wait([running])
        return verdicts

    verdicts = asyncio.run(main())
    assert len(verdicts) == len(requests)
    assert not Path("FORGED").exists()
    return verdicts


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_hostile_answers_to_mathematics_earn_nothing(every: int) -> None:
    """A thousand of them, or every seventh."""
    texts = [wrapper.format(f"\\boxed{{{body}}}") for body, wrapper in itertools.product(MATHS, WRAPPERS)]
    texts += [f"Steps.\nAnswer: {body}" for body in MATHS] + [f"**Answer:** ${body}$" for body in MATHS]
    texts += [f"{noise}\\boxed{{{body}}}" for noise, body in itertools.product(NOISE, MATHS)]
    texts += [f"The final answer is {body}. I hope it is correct." for body in MATHS]
    texts += [f"$$\\boxed{{{body}}}$$, \\boxed{{31}}" for body in MATHS]
    texts += [f"\\boxed{{31 \\text{{ or }} {body}}}" for body in MATHS] + [f"\\boxed{{{body}, 31}}" for body in MATHS]
    texts += [f"\\boxed{{31}}\n\nAnswer: {body}\n\n\\boxed{{{body}}}" for body in MATHS] + TEXTS
    assert len(texts) >= 1_000
    texts = texts[::every]
    verdicts = grade_all(ask("math_verify", *texts))
    assert [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct] == []
    # The guard in front of sympy leaves few to the deadline.
    assert sum(verdict.failed for verdict in verdicts) < 0.05 * len(verdicts), reasons(verdicts)


@pytest.mark.parametrize("grader", sorted(set(GOLDS) - {"math_verify"}))
def test_hostile_texts_earn_nothing(grader: str) -> None:
    wrapped = [f"<answer>{body}</answer>" for body in MATHS] + [f"\\boxed{{{body}}}" for body in MATHS]
    texts = TEXTS + wrapped + [f"#### {body}" for body in MATHS] + [f"Answer: {body}" for body in MATHS] + MATHS
    verdicts = grade_all(ask(grader, *texts))
    assert [text[:200] for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct] == []
    assert [text[:200] for text, verdict in zip(texts, verdicts, strict=True) if verdict.failed] == []


def test_a_pattern_that_takes_for_ever_costs_its_verdicts_alone() -> None:
    bombs = [GradingRequest("slow_regex", "a" * 60 + "b", "a"), GradingRequest("form", "x" * 60, "")] * 2
    plain = [GradingRequest("slow_regex", "baaa", "aaa"), GradingRequest("form", "xxy", "")] * 20
    verdicts = grade_all([*plain, *bombs, *plain])
    assert [verdict.correct for verdict in verdicts] == [True] * 40 + [False] * 4 + [True] * 40
    assert [verdict.reason for verdict in verdicts[40:44]] == ["timeout"] * 4


@pytest.mark.parametrize(
    "gold", ["", "9^{9^{9^9}}", "\\frac{1}{0}", "\x00", "\ud800", "3" * 50_000, "{" * 50_000, "[" * 50_000, "null"]
)
def test_a_hostile_gold_rewards_nothing_that_is_empty(gold: str) -> None:
    empty = ["", " ", "\\boxed{}", "Answer:", "<answer></answer>", "#### ", "```\n```"]
    requests = [GradingRequest(grader, text, gold) for grader in GOLDS for text in empty if grader != "json_schema"]
    assert not any(verdict.correct for verdict in grade_all(requests))
