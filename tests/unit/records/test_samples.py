"""Samples: what the archive writes, what the reader makes of it, and the same prompts over evaluations."""

import json
import resource
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.answers import changed_first, collect_answers, spread
from dapo.records.samples import (
    Group,
    SampleFile,
    SampleFilter,
    evaluation_files,
    evaluation_sets,
    last_steps,
    newest,
    read_groups,
    read_samples,
    training_files,
)
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.records.samples import _MAX_CHARACTERS, SampleArchive, make_sample
from tests.support.paths import REPO
from tests.support.samples import HOSTILE, over_steps, record, sample


@contextmanager
def largest_file(size):
    """Writing beyond `size` bytes fails as on a full disk: what fits is written, then there is an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Making ----------------------------------------------------------------------------------------------------------


def test_a_sample_holds_what_was_judged():
    found = record(5, 12, (True, False), extracted="41", overlong_penalty=-0.25, parts={"math": 1.0, "form": 0.1})
    made = make_sample(found, ["«41»".encode(), None], "kept")
    assert (made.step, made.set, made.group_id, made.row_id) == (5, None, "g0000000012", "train.jsonl:1")
    assert (made.prompt, made.gold, made.grader, made.outcome) == ("Add.", "41", "exact", "kept")
    assert (made.correct_count, made.share_correct) == (1, 0.5)
    first, second = made.responses
    assert (first.text, second.text) == ("«41»", None)
    assert (first.truncated, second.truncated) == (False, True)
    # A float32 is not written with the digits of a double.
    assert (first.reward, first.penalty, first.parts) == (0.1, -0.25, {"form": 0.1, "math": 1.0})
    assert (second.index, second.tokens, second.version_min, second.version_max) == (1, 7, 5, 6)
    assert (second.correct, second.score, second.reason, second.extracted) == (False, 0.0, "different", "41")


def test_messages_become_paragraphs():
    found = record()
    messages = [pb.ChatMessage(role="system", content="Be brief."), pb.ChatMessage(role="user", content="1+1?")]
    found.task.prompt.CopyFrom(pb.Prompt(messages=messages))
    assert make_sample(found, [b"", b""], "kept").prompt == "system: Be brief.\n\nuser: 1+1?"


def test_an_evaluation_group_names_its_set():
    assert sample(evaluation="aime", outcome="evaluated").set == "aime"


def test_invalid_utf8_and_numbers_that_are_not_finite_are_replaced():
    made = make_sample(record(score=float("nan"), reward=float("-inf")), [b"a\xff\xfeb", b""], "filtered")
    assert made.responses[0].text == "a\ufffd\ufffdb"
    assert made.responses[0].score is made.responses[0].reward is None


def test_long_texts_keep_beginning_and_end():
    text = "b" * _MAX_CHARACTERS + "middle" + "e" * _MAX_CHARACTERS
    made = make_sample(record(prompt=text), [text.encode(), b"x" * _MAX_CHARACTERS], "kept")
    kept = made.responses[0].text
    assert kept == made.prompt
    assert kept.startswith("b" * (_MAX_CHARACTERS // 2) + "\n[… ")
    assert kept.endswith("…]\n" + "e" * (_MAX_CHARACTERS // 2))
    assert f"{_MAX_CHARACTERS + 6:,} characters left out" in kept
    assert made.responses[1].text == "x" * _MAX_CHARACTERS


@pytest.mark.parametrize(("texts", "outcome"), [([b"one"], "kept"), ([b"one", b"two"], "surplus")])
def test_texts_that_are_not_one_a_grade_and_other_outcomes_are_refused(texts, outcome):
    with pytest.raises(ValueError, match=r"1 texts for 2 grades|outcome"):
        make_sample(record(), texts, outcome)


# Archiving -------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["kept", "filtered"])), max_size=60),
    st.integers(0, 5),
    st.booleans(),
)
def test_a_step_has_so_many_groups_and_not_filtered_ones_alone(tmp_path_factory, offers, per_step, concurrent):
    run_dir = tmp_path_factory.mktemp("run")
    archive = SampleArchive(run_dir, per_step)
    # Many groups are settled at a time: all may ask before the first is added.
    asked = [offer for offer in offers if archive.wants(*offer)] if concurrent else offers
    for number, (step, outcome) in enumerate(asked):
        if concurrent or archive.wants(step, outcome):
            archive.add(sample(step, number, outcome=outcome))
    written = [one for file in training_files(run_dir) for one in read_samples(file.path)]
    for step in range(3):
        offered = [outcome for at, outcome in offers if at == step]
        found = [one.outcome for one in written if one.step == step]
        filtered = min(offered.count("filtered"), max(1, per_step // 2)) if per_step else 0
        assert len(found) <= per_step
        assert found.count("filtered") <= filtered
        # Nothing that there was room for is missing.
        assert len(found) == min(per_step, offered.count("kept") + filtered)


def test_the_file_is_rotated_and_the_newest_groups_stay(tmp_path):
    limit = 4_000
    archive = SampleArchive(tmp_path, 1, limit_bytes=limit)
    for step in range(60):
        archive.add(sample(step))
    older, newer = training_files(tmp_path)
    assert (older.path.name, newer.path.name) == ("samples.1.jsonl", "samples.jsonl")
    assert all(file.path.stat().st_size <= limit for file in (older, newer))
    steps = [group.step for group in read_groups([older, newer], [])]
    assert steps == list(range(steps[0], 60))
    assert 6 <= len(steps) < 60


def test_a_group_longer_than_the_limit_is_kept_all_the_same(tmp_path):
    archive = SampleArchive(tmp_path, 4, limit_bytes=10)
    for number in range(3):
        archive.add(sample(number=number))
    assert [group.sample.group_id for group in read_groups(training_files(tmp_path), [])] == [
        "g0000000001",
        "g0000000002",
    ]


def test_a_full_disk_raises_and_leaves_whole_lines(tmp_path):
    archive = SampleArchive(tmp_path, 8)
    archive.add(sample(number=0))
    path = tmp_path / "samples.jsonl"
    with largest_file(path.stat().st_size + 100), pytest.raises(OSError, match=r"samples\.jsonl"):
        archive.add(sample(number=1))
    assert archive.wants(3, "kept")
    archive.add(sample(number=2))
    unreadable = []
    found = [group.sample.group_id for group in read_groups(training_files(tmp_path), unreadable)]
    assert (found, unreadable) == (["g0000000000", "g0000000002"], [])


def test_an_evaluation_is_written_in_one_step(tmp_path):
    archive = SampleArchive(tmp_path, 0)
    before = [sample(10, number, evaluation="aime", outcome="evaluated") for number in range(3)]
    path = archive.write_evaluation("aime", 10, before)
    assert path == tmp_path / "evaluations" / "aime" / "step-000010.jsonl"
    with largest_file(1_000), pytest.raises(OSError, match="large"):
        archive.write_evaluation("aime", 10, [one for one in before for _ in range(20)])
    assert list(read_samples(path)) == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    archive.write_evaluation("aime", 10, before[:1])
    assert list(read_samples(path)) == before[:1]


@pytest.mark.parametrize("name", ["", "..", "../outside", "a/b", "a\0b"])
def test_a_set_name_cannot_lead_out_of_the_run(tmp_path, name):
    with pytest.raises(ValueError, match=r"evaluation\.sets"):
        SampleArchive(tmp_path, 4).write_evaluation(name, 0, [])
    assert list(tmp_path.iterdir()) == []


# Reading ---------------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_any_text_comes_back_as_it_was(tmp_path_factory, prompt, response):
    run_dir = tmp_path_factory.mktemp("run")
    made = sample(prompt=prompt, texts=[response.encode(errors="replace"), HOSTILE.encode()])
    SampleArchive(run_dir, 1).add(made)
    assert list(read_samples(run_dir / "samples.jsonl")) == [made]


def test_lines_that_are_no_samples_are_named_and_skipped(tmp_path):
    path = tmp_path / "samples.jsonl"
    good = sample().model_dump_json()
    bad = json.dumps(json.loads(good) | {"responses": []})
    path.write_bytes("\n".join([good, "{", "[1]", bad, good, good[:-20]]).encode())
    unreadable = []
    assert len(list(read_groups([SampleFile(path)], unreadable))) == 2
    assert [(one.path, one.line) for one in unreadable] == [(path, 2), (path, 3), (path, 4)]
    assert "responses: " in str(unreadable[2])
    assert str(unreadable[2]).startswith(f"{path}:4: ")


def test_evaluations_come_by_step_and_other_files_are_left_alone(tmp_path):
    archive = SampleArchive(tmp_path, 0)
    for step in (1_000_000, 20, 3):
        archive.write_evaluation("aime", step, [sample(step + 1, evaluation="aime", outcome="evaluated")])
    (tmp_path / "evaluations" / "aime" / ".step-000030.jsonl.host-1.part").write_text("half")
    (tmp_path / "evaluations" / "empty").mkdir()
    assert evaluation_sets(tmp_path) == ["aime"]
    files = evaluation_files(tmp_path, "aime")
    assert [file.step for file in files] == [3, 20, 1_000_000]
    # The step of an evaluation is that of its weights, though its prompts may have been issued later.
    assert [group.step for group in read_groups(files, [])] == [3, 20, 1_000_000]


@pytest.mark.parametrize(
    ("right", "of", "high"), [(0, 8, False), (1, 8, False), (2, 8, True), (4, 8, True), (6, 8, True), (7, 8, False)]
)
def test_high_variance_is_a_quarter_to_three_quarters(right, of, high):
    group = Group(0, sample(verdicts=[index < right for index in range(of)]))
    assert SampleFilter(high_variance=True).group(group) is high


def test_filters_hold_together():
    # Response 1 is truncated.
    mixed = sample(verdicts=(True, False, False))
    assert [r.index for r in SampleFilter(correct=False).responses(mixed)] == [1, 2]
    assert [r.index for r in SampleFilter(correct=True).responses(mixed)] == [0]
    assert [r.index for r in SampleFilter(truncated=True).responses(mixed)] == [1]
    assert [r.index for r in SampleFilter(correct=False, truncated=True).responses(mixed)] == [1]
    assert SampleFilter(correct=True, truncated=True).responses(mixed) == []


def test_a_prompt_is_found_by_row_id_or_text():
    group = Group(0, sample(row_id="train.jsonl:1", prompt="Was ist die STRASSE?"))
    for text, found in {"train.jsonl:1": True, "train.jsonl": False, "straße": True, "Weg": False, "": True}.items():
        assert SampleFilter(prompt=text).group(group) is found


def test_the_newest_come_last():
    found = [Group(step, sample(step, number=step, verdicts=(step % 2 == 0, False))) for step in (0, 1, 2, 4, 3)]
    assert [group.step for group in newest(found, SampleFilter(), 2)] == [4, 3]
    assert [group.step for group in newest(found, SampleFilter(correct=True), 2)] == [2, 4]
    assert [group.step for group in newest(found, SampleFilter(steps={1}), 2)] == [1]
    assert last_steps(found, 2) == {3, 4}


def test_the_documented_line_is_a_sample(tmp_path):
    text = (REPO / "docs" / "samples.md").read_text(encoding="utf-8")
    line = text.split("```json\n")[1].split("```")[0].replace("\n", "")
    (tmp_path / "samples.jsonl").write_text(line + "\n", encoding="utf-8")
    (found,) = read_samples(tmp_path / "samples.jsonl")
    assert json.loads(found.model_dump_json()) == json.loads(line)


# Over evaluations ------------------------------------------------------------------------------------------------


def test_prompts_are_compared_from_the_first_to_the_last_step():
    found = collect_answers(Group(step, one) for step, samples in over_steps().items() for one in samples)
    assert [prompt.change for prompt in found] == ["became right", "became wrong", "", ""]
    assert {step: tuple(cell) for step, cell in found[0].cells.items()} == {0: (1, 3, "7"), 10: (2, 3, "41")}
    assert list(found[3].cells) == [10]
    assert [prompt.row_id for prompt in changed_first(reversed(found))] == ["aime:1", "aime:2", "aime:4", "aime:3"]


def test_half_correct_is_not_right_and_without_answers_the_text_stands():
    (prompt,) = collect_answers([Group(0, sample(verdicts=(True, False)))])
    assert not prompt.cells[0].right
    assert prompt.cells[0].answer == "text"


@given(st.lists(st.integers(0, 1000), unique=True, min_size=1, max_size=40).map(sorted), st.integers(2, 12))
def test_steps_that_are_shown_are_spread(steps, count):
    shown = spread(steps, count)
    assert len(shown) == min(len(steps), count)
    assert shown == sorted(set(shown))
    assert (shown[0], shown[-1]) == (steps[0], steps[-1])
