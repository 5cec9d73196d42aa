"""Modules of the page that only compute, asked in the browser that runs them."""

import random

import httpx
import pytest

from tests.support.page.browser import Watched

WORDS = ["one", "two", "three", "\n", "  ", "four", "x=1", "é"]


@pytest.fixture
def module(watched: Watched):
    watched.open("/")

    def call(name: str, function: str, *arguments):
        script = "async ([name, f, args]) => (await import(`/page/${name}`))[f](...args)"
        return watched.page.evaluate(script, [name, function, list(arguments)])

    call.page = watched.page
    return call


def test_a_diff_leads_from_one_text_to_the_other(module) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices([*WORDS, " "], k=rng.randrange(30))) for _ in range(60)]
    for before, after in zip(texts[::2], texts[1::2], strict=True):
        pieces = module("pure/diff.js", "diff", before, after)
        assert "".join(one["text"] for one in pieces if one["kind"] != "new") == before
        assert "".join(one["text"] for one in pieces if one["kind"] != "gone") == after
    assert [one["kind"] for one in module("pure/diff.js", "diff", "a b c", "a x c")] == ["same", "gone", "new", "same"]
    long = "word " * 2000
    assert [one["kind"] for one in module("pure/diff.js", "diff", long, long + "end")] == ["gone", "new"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.012, "12 ms"), (3.21, "3.2 s"), (59, "59 s"), (3900, "1 h 5 min"), (190_000, "2 d 4 h")]
)
def test_times_are_told_as_people_read_them(module, seconds: float, words: str) -> None:
    assert module("pure/words.js", "duration", seconds) == words


def test_a_form_has_every_field_of_the_schema_once(module, service) -> None:
    schema = httpx.get(f"{service.url}/v1/spec-schema", trust_env=False).json()
    fields = [field["path"] for section in module("pure/schema.js", "sections", schema) for field in section["fields"]]
    assert len(fields) == len(set(fields)) > 100
    assert {"name", "model.path", "training.steps", "resources.generator.replicas", "evaluation.sets"} <= set(fields)
    spec = module("pure/schema.js", "nested", {"training.steps": 3, "resources.redis.memory_mib": 64, "name": "x"})
    assert spec == {"training": {"steps": 3}, "resources": {"redis": {"memory_mib": 64}}, "name": "x"}


def test_of_a_log_read_anew_only_what_is_unknown_is_taken(module) -> None:
    rng = random.Random(2)
    for _ in range(40):
        log = [f"line {rng.randrange(4)}" for _ in range(rng.randrange(1, 30))]
        at = rng.randrange(1, len(log) + 1)
        start = rng.randrange(at)
        known, again = log[:at], log[start:]
        found = module("pure/log_lines.js", "unknown", known, again)
        assert known[len(known) - (len(again) - len(found)) :] + found == again, "it is known that far"
        assert len(found) <= len(log) - at, "no line comes twice"
    assert module("pure/log_lines.js", "unknown", ["a", "b"], ["x", "y"]) == ["x", "y"]
    assert module("pure/log_lines.js", "unknown", [], ["x"]) == ["x"]


def test_of_an_endless_log_the_newest_lines_are_kept_in_chunks(module) -> None:
    script = """async () => {
        const { MOST, appended } = await import("/page/pure/log_lines.js");
        let chunks = [];
        for (let at = 0; at < 12000; at += 100) {
            const before = chunks;
            chunks = appended(chunks, Array.from({ length: 100 }, (_, one) => `line ${at + one}`));
            const same = chunks.filter((chunk) => before.includes(chunk)).length;
            if (before.length > 2 && same < before.length - 2) return "chunks are made anew";
        }
        const lines = chunks.flatMap((chunk) => chunk.lines.map((line) => line.text));
        const first = Number(lines[0].split(" ")[1]);
        const whole = lines.every((line, index) => line === `line ${first + index}`);
        return { last: lines.at(-1), enough: lines.length >= MOST, few: lines.length < MOST + 300, whole };
    }"""
    found = module.page.evaluate(script)
    assert found == {"last": "line 11999", "enough": True, "few": True, "whole": True}


def test_labels_that_are_written_become_a_change(module) -> None:
    before = {"team": "red", "gone": "1", "same": "x"}
    text = " team = blue \n\nsame=x\nnew=a=b\nbare"
    found = module("parts/labels.js", "changedLabels", before, text)
    assert found == {"team": "blue", "gone": None, "new": "a=b", "bare": ""}


def test_smoothing_has_no_bias_at_its_beginning_and_leaves_gaps(module) -> None:
    assert module("ask/series.js", "smoothed", [4.0, None, 4.0], 0.5) == [4.0, None, 4.0]
    found = module("ask/series.js", "smoothed", [0.0, 1.0], 0.5)
    assert found == pytest.approx([0.0, 2 / 3])


def test_a_list_of_runs_is_renewed_or_read_again_where_it_does_not_say_what_became_of_one(module) -> None:
    known = [{"id": "b", "state": "running", "step": 1}, {"id": "a", "state": "stopped", "step": 9}]
    fresh = [{"id": "c", "state": "starting", "step": 0}, {"id": "b", "state": "running", "step": 2}]
    found = module("ask/run_list.js", "renewed", known, fresh)
    assert [(one["id"], one["step"]) for one in found] == [("c", 0), ("b", 2), ("a", 9)]
    assert module("ask/run_list.js", "renewed", known, fresh[:1]) is None
