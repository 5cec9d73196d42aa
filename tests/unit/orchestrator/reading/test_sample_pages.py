"""Pages of samples: every sample on one page, the newest first, also while more are written."""

import pytest

from dapo.records.samples import SampleFilter
from services.orchestrator.reading import sample_pages
from services.orchestrator.reading.sample_pages import BadCursor, read_page, sample_files
from tests.support.samples import sample

EVERYTHING = SampleFilter()


def write(path, samples, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.writelines(one.model_dump_json() + "\n" for one in samples)


@pytest.fixture
def run_dir(tmp_path):
    write(tmp_path / "samples.1.jsonl", [sample(step, step) for step in range(3)])
    write(tmp_path / "samples.jsonl", [sample(step, step, prompt=f"Add {step}.") for step in range(3, 7)])
    return tmp_path


def pages(run_dir, wanted=EVERYTHING, limit=2, between=lambda: None):
    found, cursor = [], ""
    while True:
        page = read_page(sample_files(run_dir, ""), wanted, limit, cursor)
        assert len(page.samples) <= limit
        found += [one.step for one in page.samples]
        if not (cursor := page.cursor):
            return found
        between()


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_together_have_every_sample_once(run_dir, limit):
    assert pages(run_dir, limit=limit) == [6, 5, 4, 3, 2, 1, 0]


def test_what_is_written_meanwhile_shifts_nothing(run_dir):
    more = iter(range(7, 100))

    def grow():
        write(run_dir / "samples.jsonl", [sample(next(more), 50)], "a")

    assert pages(run_dir, between=grow) == [6, 5, 4, 3, 2, 1, 0]


def test_a_file_that_gets_another_name_meanwhile_is_read_on(run_dir):
    first = read_page(sample_files(run_dir, ""), EVERYTHING, 2, "")
    (run_dir / "samples.jsonl").replace(run_dir / "samples.1.jsonl")
    write(run_dir / "samples.jsonl", [sample(7, 7)])
    second = read_page(sample_files(run_dir, ""), EVERYTHING, 10, first.cursor)
    assert [one.step for one in second.samples] == [4, 3]


def test_a_filter_that_finds_little_searches_a_part_at_a_time(run_dir, monkeypatch):
    monkeypatch.setattr(sample_pages, "_SEARCHED_BYTES", 1)
    page = read_page(sample_files(run_dir, ""), SampleFilter(prompt="add 3"), 5, "")
    assert (page.samples, bool(page.cursor)) == ([], True)
    assert pages(run_dir, SampleFilter(prompt="add 3")) == [3]


def test_samples_are_filtered_by_step_verdict_and_words(run_dir):
    write(run_dir / "samples.jsonl", [sample(9, 9, (True, True))], "a")
    assert pages(run_dir, SampleFilter(steps=(4,))) == [4]
    assert 9 not in pages(run_dir, SampleFilter(correct=False))
    assert pages(run_dir, SampleFilter(prompt="ADD 5")) == [5]


def test_lines_that_are_no_sample_are_passed_over(run_dir):
    with (run_dir / "samples.jsonl").open("a") as file:
        file.write('{"step": 1}\n{"being writ')
    assert pages(run_dir) == [6, 5, 4, 3, 2, 1, 0]


def test_an_evaluation_has_the_step_whose_weights_were_evaluated(tmp_path):
    for step in (10, 20):
        one = sample(3, step, evaluation="aime", outcome="evaluated")
        write(tmp_path / "evaluations" / "aime" / f"step-{step:06d}.jsonl", [one])
    page = read_page(sample_files(tmp_path, "aime"), EVERYTHING, 10, "")
    assert [one.step for one in page.samples] == [20, 10]


@pytest.mark.parametrize("cursor", ["x", "1-", "-1", "1-2-3", "999999999-5"])
def test_a_cursor_that_leads_nowhere_is_refused(run_dir, cursor):
    with pytest.raises(BadCursor):
        read_page(sample_files(run_dir, ""), EVERYTHING, 2, cursor)


@pytest.mark.parametrize("digits", [4, 18, 30, 5000])
def test_a_cursor_beyond_the_file_is_refused_as_one_that_was_cut_meanwhile(run_dir, digits):
    path = run_dir / "samples.jsonl"
    inode, size = path.stat().st_ino, path.stat().st_size
    for cursor in (f"{inode}-{'9' * digits}", f"{'9' * digits}-{size}", f"{inode}-{size + 1}"):
        with pytest.raises(BadCursor):
            read_page(sample_files(run_dir, ""), EVERYTHING, 2, cursor)
    assert len(read_page(sample_files(run_dir, ""), EVERYTHING, 2, f"{inode}-{size}").samples) == 2
