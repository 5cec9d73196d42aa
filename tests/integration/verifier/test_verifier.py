"""The verifier on a real Valkey, with its real grading processes: verdicts, rewards, groups."""

import pytest

from dapo.algo.text_statistics import measure_text
from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import drive
from tests.support.verifier.http_service import Answer, serving
from tests.support.verifier.service import assert_all_done, make_spec, scored, settle_all, verifying, write_group


def test_completions_become_one_scored_group_with_shaped_rewards(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", b" good\n", b"bad", b""], tokens=10)
        async with verifying(bus, make_spec()):
            deliveries = await scored(bus, 1)
        assert [one.data.decode() for one in deliveries] == [group_id]
        record = await bus.groups.read(group_id)
        assert record.state == "scored"
        grades = record.grades
        assert [grade.correct for grade in grades] == [True, True, False, False]
        assert [grade.reason for grade in grades] == ["equal", "equal", "different", "no_answer"]
        assert [grade.overlong_penalty for grade in grades] == pytest.approx([0, -0.1, -0.2, -0.3])
        assert [grade.reward for grade in grades] == pytest.approx([1, 0.9, -1.2, -1.3])
        assert [grade.completion.index for grade in grades] == [0, 1, 2, 3]
        await settle_all(bus, deliveries)
        await assert_all_done(bus)
        assert await bus.dead_letters.read() == []

    drive(valkey.url, scenario)


def test_a_grade_tells_how_the_whole_text_is_written(valkey: EmbeddedValkey) -> None:
    """The grader reads the end of a text; what is measured covers all of it."""
    long = "Wait. " + "so it is 3 then " * 2000 + "Answer: 34"
    texts = [long, "Answer: 34", "Answer: 34", ""]

    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [text.encode() for text in texts], grader="math_dapo", gold="34")
        spec = make_spec()
        async with verifying(bus, spec):
            await scored(bus, 1)
        grades = (await bus.groups.read(group_id)).grades
        expected = [measure_text(text, spec.metrics.reflection_patterns) for text in texts]
        assert [grade.fingerprint for grade in grades] == [one.fingerprint for one in expected]
        assert [grade.repetition for grade in grades] == pytest.approx([one.repetition for one in expected])
        assert [grade.reflection for grade in grades] == [True, False, False, False]
        assert all(grade.HasField("repetition") and grade.HasField("reflection") for grade in grades)
        assert [grade.correct for grade in grades] == [True, True, True, False]

    drive(valkey.url, scenario)


@pytest.mark.parametrize(("evaluation", "classes"), [("exam", 4), ("", 1)])
def test_responses_of_an_evaluation_vote_by_class(valkey: EmbeddedValkey, evaluation: str, classes: int) -> None:
    pytest.importorskip("math_verify", reason="pip install '.[graders]'")
    right = ["\\boxed{3}", "Answer: 3.0"]
    half = ["\\boxed{0.5}", "\\boxed{\\frac12}", "Answer: 1/2"]
    texts = [*right, *half, "\\boxed{2(x+1)}", "\\boxed{2x+2}", "I do not know"]

    async def scenario(bus: Bus) -> None:
        group_id = await write_group(
            bus, 0, [text.encode() for text in texts], grader="math_verify", gold="3", evaluation=evaluation
        )
        async with verifying(bus, make_spec()):
            await scored(bus, 1)
        found = [grade.answer_class for grade in (await bus.groups.read(group_id)).grades]
        assert found[-1] == ""
        assert len(set(found)) == classes
        if evaluation:
            assert (found[0], found[2], found[3], found[5]) == (found[1], found[3], found[4], found[6])

    drive(valkey.url, scenario)


def test_a_pattern_that_takes_forever_costs_no_verdict(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", b"a" * 60 + b"b"])
        patterns = {"metrics": {"reflection_patterns": ["(a+)+$"]}}
        async with verifying(bus, make_spec(grader_timeout_s=1.0, sections=patterns)):
            await scored(bus, 1)
        grades = (await bus.groups.read(group_id)).grades
        assert [grade.reason for grade in grades] == ["equal", "different"]
        assert [grade.HasField("fingerprint") for grade in grades] == [True, False]

    drive(valkey.url, scenario)


@pytest.mark.parametrize(("mode", "rewards"), [("graded", [1, -1]), ("incorrect", [-1, -1])])
def test_a_truncated_response_keeps_its_verdict_and_is_rewarded_by_the_spec(
    valkey: EmbeddedValkey, mode: str, rewards: list[float]
) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", b"bad"], finish=pb.FINISH_REASON_LENGTH)
        async with verifying(bus, make_spec(sections={"algorithm": {"truncated_reward": mode}})):
            await scored(bus, 1)
        grades = (await bus.groups.read(group_id)).grades
        assert [grade.correct for grade in grades] == [True, False]
        assert [grade.reward for grade in grades] == rewards

    drive(valkey.url, scenario)


def test_many_groups_are_each_announced_once(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, other: Bus) -> None:
        groups = {await write_group(bus, number, [b"Answer: 34", b"Answer: 35"] * 4, grader="math_dapo", gold="34")
                  for number in range(100)}  # fmt: skip
        async with verifying(bus, make_spec()), verifying(other, make_spec(), "verifier-1"):
            deliveries = await scored(bus, 100)
        assert {one.data.decode() for one in deliveries} == groups
        for record in await bus.groups.read_many(sorted(groups)):
            assert [grade.correct for grade in record.grades] == [True, False] * 4
        await settle_all(bus, deliveries)
        await assert_all_done(bus)

    drive(valkey.url, scenario, buses=2)


def test_verdicts_that_are_no_text_are_written(valkey: EmbeddedValkey) -> None:
    """Lone surrogates of a user's grader, of a program and of a service."""

    async def scenario(bus: Bus) -> None:
        body = b'{"results": [{"score": 0.0, "reason": "no \\ud800"}]}'
        tests = '{"tests": [{"input": "", "output": "1"}]}'
        program = b"raise ValueError('\\ud800')"
        called = b"def f(x):\n    raise ValueError('\\ud800')"
        with serving(lambda number, _: Answer(body)) as service:
            await write_group(bus, 0, [b"surrogate", b"raise a surrogate"], grader="misbehaving")
            await write_group(bus, 1, [b"x"], grader="outside")
            await write_group(bus, 2, [program], grader="code", gold=tests)
            await write_group(bus, 3, [called], grader="code", gold='{"asserts": "assert f(1) == 2"}')
            async with verifying(bus, make_spec(graders={"outside": {"type": "remote", "url": service.url}})):
                deliveries = await scored(bus, 4)
        records = await bus.groups.read_many(sorted(one.data.decode() for one in deliveries))
        mine, raised, outside, code, call = (grade for record in records for grade in record.grades)
        assert (mine.reason, dict(mine.parts)) == ("different \\udfff", {"\\udc00": 1.0})
        assert mine.extracted == ("\\ud800" * 150)[:200]
        assert (raised.reason, raised.extracted) == ("crash", "ValueError: \\ud800")
        assert outside.extracted == "no \\ud800"
        assert "ValueError: \\ud800" in code.extracted
        assert "ValueError: \\ud800" in call.extracted
        await settle_all(bus, deliveries)

    drive(valkey.url, scenario)


def test_hostile_texts_are_graded(valkey: EmbeddedValkey) -> None:
    texts = [
        b"\xff\xfe\x00Answer: 34",
        b"Answer: " + b"{" * 5000,
        b"Answer: 9^{9^{9^9}}",
        b"Answer: \\frac" * 20_000,
        "Answer: ٣٤".encode(),
        b"\n" * 1_000_000 + b"Answer: 34",
        b'[true, 1.0, "equal", ""]\nAnswer: 3"],[4',
        b"",
    ]

    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, texts, grader="math_dapo", gold="34")
        async with verifying(bus, make_spec()):
            await scored(bus, 1)
        grades = (await bus.groups.read(group_id)).grades
        assert [grade.correct for grade in grades] == [True, False, False, False, False, True, False, False]
        assert max(len(grade.extracted) for grade in grades) <= 200

    drive(valkey.url, scenario)
