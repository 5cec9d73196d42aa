"""The audit of a run: what a whole one looks like, and that each kind of damage is found."""

from collections.abc import Callable

import pytest

from benchmarks.survival.audit import Promise, audit, uniform_groups
from benchmarks.survival.journal import Journal, commands, read_journal
from dapo.v1 import messages_pb2 as pb

PROMISE = Promise(steps=3, prompts_per_step=2, max_staleness=1)
SIZE = 2
UNIFORM = "g0000000006"
LEDGER = {"trained": 6, "filtered": 1, "surplus": 1, "failed": 0, "issued": 0, "total": 8}


def encoded(*parts: bytes | str) -> bytes:
    """A command as it stands in an append-only file."""
    data = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in data)


def key(name: str) -> str:
    return "dapo:{run}:" + name


def group_id(number: int) -> str:
    return f"g{number:010d}"


def written() -> list[bytes]:
    """Eight groups: two in each of three batches, one uniform, one surplus that was never answered."""
    found = [encoded("SELECT", "0"), b"#TS:1700000000\r\n"]
    for number in range(8):
        group, version = group_id(number), max(0, number // 2 - 1)
        task = pb.PromptTask(group_id=group, cursor=number, group_size=SIZE, issued_version=version)
        found.append(encoded("HSETNX", key(f"g:{group}"), "state", "issued"))
        found.append(encoded("XADD", key("prompts"), f"{number + 1}-0", "data", group))
        found.append(encoded("HSET", key(f"g:{group}"), "reason", "", "task", task.SerializeToString()))
        for index in range(SIZE if number < 7 else 0):
            completion = pb.Completion(group_id=group, index=index, version_min=version, version_max=version)
            grade = pb.Grade(completion=completion, correct=group == UNIFORM or index == 0)
            found.append(
                encoded("HSET", key(f"g:{group}"), f"completion:{index}", completion.SerializeToString(), "losses", "0")
            )
            found.append(encoded("HSET", key(f"g:{group}"), f"grade:{index}", grade.SerializeToString()))
        found.append(encoded("XDEL", key("prompts"), f"{number + 1}-0"))
    for number in range(3):
        groups = [
            pb.TrainGroup(group_id=group_id(2 * number + at), samples=[pb.TrainSample()] * SIZE) for at in range(2)
        ]
        batch = pb.TrainBatch(batch=number, groups=groups)
        found.append(encoded("XADD", key("batches"), f"{number + 1}-0", "data", batch.SerializeToString()))
        step = pb.StepReport(batch=number)
        found.append(
            encoded("XADD", key("steps"), "MAXLEN", "~", "10000", f"{number + 1}-0", "data", step.SerializeToString())
        )
    found.append(encoded("XADD", key("batches"), "4-0", "data", pb.TrainBatch(batch=3, end=True).SerializeToString()))
    return found


def journal() -> Journal:
    return read_journal(commands(b"".join(written())), "run")


def rows() -> list[dict[str, int]]:
    return [{"step": step} for step in (1, 2, 3)]


def test_a_run_that_kept_everything_has_no_violation() -> None:
    assert audit(journal(), LEDGER, 8, rows(), PROMISE) == []
    assert uniform_groups(journal()) == {UNIFORM}


def test_a_command_that_was_cut_off_is_left_out() -> None:
    data = b"".join(written())
    whole = list(commands(data))
    for cut in range(1, len(written()[-1])):
        assert list(commands(data[:-cut])) == whole[:-1]


def test_another_run_on_the_same_server_is_not_read() -> None:
    assert read_journal(commands(b"".join(written())), "other") == Journal()


def lose_a_completion(found: Journal) -> None:
    del found.completions[group_id(1), 0]


def lose_a_grade(found: Journal) -> None:
    del found.grades[group_id(1)][1]


def train_twice(found: Journal) -> None:
    found.batches[2].groups[0].group_id = group_id(0)


def train_the_uniform(found: Journal) -> None:
    found.batches[2].groups[0].group_id = UNIFORM


def train_what_was_not_issued(found: Journal) -> None:
    found.batches[2].groups[0].group_id = group_id(99)


def shorten_a_batch(found: Journal) -> None:
    del found.batches[1].groups[0]


def shorten_a_group(found: Journal) -> None:
    del found.batches[1].groups[0].samples[0]


def skip_a_batch(found: Journal) -> None:
    del found.batches[1]


def record_twice(found: Journal) -> None:
    found.steps.append(found.steps[-1])


def train_too_late(found: Journal) -> None:
    found.issued[group_id(4)].issued_version = 0


def sample_from_the_future(found: Journal) -> None:
    found.completions[group_id(0), 0].version_max = 1


def issue_a_row_twice(found: Journal) -> None:
    found.issued[group_id(7)].cursor = 3


def issue_a_group_again(found: Journal) -> None:
    found.issued_again.append(group_id(3))


def leave_a_prompt(found: Journal) -> None:
    found.waiting["8-0"] = group_id(7)


def bury_a_group(found: Journal) -> None:
    found.dead.append((group_id(7), "engine_lost"))


DAMAGES: dict[Callable[[Journal], None], str] = {
    lose_a_completion: "batch 0, group g0000000001: response 0 was never generated and graded",
    lose_a_grade: "batch 0, group g0000000001: response 1 was never generated and graded",
    train_twice: "1 groups in several batches: g0000000000",
    train_the_uniform: f"batch 2, group {UNIFORM}: its responses are all right or all wrong",
    train_what_was_not_issued: "batch 2, group g0000000099: it was never issued",
    shorten_a_batch: "batch 1 has 1 groups, not 2",
    shorten_a_group: "batch 1, group g0000000002: 1 samples of 2",
    skip_a_batch: "batch numbers: 2 of 3, twice [], missing [1]",
    record_twice: "step numbers: 4 of 3, twice [2], missing []",
    train_too_late: "batch 2, group g0000000004: issued at version 0",
    sample_from_the_future: "batch 0, group g0000000000: response 0 was sampled by 0 and later",
    issue_a_row_twice: "1 prompts issued twice: (0, 3)",
    issue_a_group_again: "1 groups issued twice: g0000000003",
    leave_a_prompt: "1 prompts that still wait: g0000000007",
    bury_a_group: "1 dead letters: g0000000007 (engine_lost)",
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_damage_is_found(damage: Callable[[Journal], None], words: str) -> None:
    found = journal()
    damage(found)
    assert words in audit(found, LEDGER, 8, rows(), PROMISE)


@pytest.mark.parametrize(
    ("change", "issued", "words"),
    [
        ({"trained": 5, "surplus": 2}, 8, "6 groups were trained on, the ledger counts 5"),
        ({"filtered": 2, "surplus": 0}, 8, "1 groups are uniform, the ledger counts 2 as filtered"),
        ({"failed": 1, "surplus": 0}, 8, "1 groups failed"),
        ({"scored": 1, "surplus": 0}, 8, "groups wait after the drain: {'scored': 1}"),
        ({}, 9, "8 groups were issued, the ledger counts 9"),
    ],
)
def test_a_ledger_that_says_otherwise_is_found(change: dict[str, int], issued: int, words: str) -> None:
    assert words in audit(journal(), LEDGER | change, issued, rows(), PROMISE)


def test_rows_that_are_missing_or_there_twice_are_found() -> None:
    words = "row of metrics.jsonl numbers: 3 of 3, twice [1], missing [2]"
    assert words in audit(journal(), LEDGER, 8, [{"step": 1}, {"step": 2}, {"step": 2}], PROMISE)
