"""Figures of a dataset, cleaned copies, and the commands that make them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.data import DatasetError, open_source
from dapo.data.inspection import distribution, gold_kind, inspect
from dapo.data.preparation import Filters, held_out_path, prepare
from dapo.data.source import Source
from dapo.data.tokens import PromptTokens
from dapo.spec.tree.data import SourceSpec
from tests.support.data import shared, write_lines, write_parquet

MESSAGES = [{"role": "user", "content": "cab"}]


def source(path: Path, **fields) -> Source:
    return Source(SourceSpec(path=str(path), **fields), "data")


def dapo(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def read(path: Path) -> list[tuple[str, str]]:
    return [(row.prompt.text, row.gold) for row in open_source(SourceSpec(path=str(path)), "copy")]


@pytest.fixture
def rows(tmp_path) -> Path:
    lines = [
        {"question": "one  and two", "answer": 3},
        "{",
        {"question": "one and two", "answer": 3},
        {"question": "one and two ", "answer": 4},
        {"question": "long " * 100, "answer": 5},
        {"question": "asked in the test", "answer": [1, 2]},
        *({"question": f"number {i}", "answer": i} for i in range(40)),
    ]
    return write_lines(tmp_path / "d.jsonl", lines)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tokenizer of one token a character, with a chat template and a configuration."""
    pytest.importorskip("transformers")
    from tests.support.models import char_tokenizer, tiny_qwen2

    path = tmp_path_factory.mktemp("model")
    tokenizer = char_tokenizer("abcdefghijklmnopqrstuvwxyz>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}>{% endfor %}"
    tokenizer.save_pretrained(path)
    tiny_qwen2(0).config.save_pretrained(path)
    return path


# -- figures


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=200))
def test_a_distribution_counts_every_value_once(values):
    found = distribution(values)
    assert sum(count for _, count in found.bins) == len(values)
    assert (found.minimum, found.maximum) == (min(values), max(values))
    assert found.quantiles["p50"] == sorted(values)[math.ceil(len(values) / 2) - 1]
    bounds = [bound for bound, _ in found.bins]
    assert bounds == sorted(set(bounds))
    below = 0
    for bound, count in found.bins:
        below += count
        assert below == sum(value <= bound for value in values)


@pytest.mark.parametrize(
    ("gold", "kind"),
    [("18", "integer"), (" -3 ", "integer"), ("1.5", "number"), ("1e-07", "number"), (".5", "number"),
     ("[1]", "JSON"), ('{"a":1}', "JSON"), ("[1, 2)", "text"), ("x = 3", "text"), ("١٢", "text"), ("1,000", "text")],
)  # fmt: skip
def test_kinds_of_golds(gold, kind):
    assert gold_kind(gold) == kind


def test_an_inspection_counts_everything(rows):
    one = source(rows)
    found = inspect(one, one.scan(), samples=1)
    assert (found.rows, found.usable, found.malformed) == (46, 45, 1)
    assert str(found.first_malformed[0]).startswith("d.jsonl:2: not a JSON object")
    assert (found.duplicates, found.conflicts) == (2, 1)
    assert found.first_conflicts[0] == ("d.jsonl:4", "d.jsonl:1")
    assert found.golds == {"integer": 44, "JSON": 1}
    assert found.prompts == {"text": 45}
    assert found.characters.maximum == 500
    assert [row.row_id for row in found.samples] == ["d.jsonl:1"]
    assert found.tokens is None


def test_an_inspection_has_no_limit_of_malformed_rows(tmp_path):
    one = source(write_lines(tmp_path / "d.jsonl", [{"prompt": "a", "answer": 1}, *["{"] * 500]))
    found = inspect(one, one.scan())
    assert (found.malformed, len(found.first_malformed), found.usable) == (500, 5, 1)


def test_tokens_are_counted_as_the_generators_count(tmp_path, model):
    from services.generator.tokens import PromptCodec

    prompts = ["cab", "a>b", MESSAGES, [*MESSAGES, {"role": "assistant", "content": "dd"}]]
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": prompt, "answer": 1} for prompt in prompts])
    built = [row.prompt for row in open_source(SourceSpec(path=str(path)), "data")]
    codec = PromptCodec(str(model))
    assert PromptTokens(str(model)).count(built) == [len(codec.encode(prompt)) for prompt in built] == [3, 3, 4, 6]
    one = source(path)
    found = inspect(one, one.scan(), PromptTokens(str(model)))
    assert found.tokens is not None
    assert (found.tokens.minimum, found.tokens.maximum) == (3, 6)


def test_a_model_without_tokenizer_or_template_is_named(tmp_path, model):
    with pytest.raises(DatasetError, match=r"none has no tokenizer"):
        PromptTokens(str(tmp_path / "none"))
    from tests.support.models import char_tokenizer

    char_tokenizer("abc").save_pretrained(tmp_path / "plain")
    one = source(write_lines(tmp_path / "d.jsonl", [{"prompt": MESSAGES, "answer": 1}]))
    with pytest.raises(DatasetError, match="plain has no chat template, but the prompts are messages"):
        inspect(one, one.scan(), PromptTokens(str(tmp_path / "plain")))


# -- copies


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_copy_accounts_for_every_row(tmp_path, rows, suffix):
    out = tmp_path / f"clean.{suffix}"
    one = source(rows)
    test = open_source(SourceSpec(path=str(write_lines(tmp_path / "t.jsonl", [{"prompt": "asked in the  test",
                                                                               "answer": 1}]))), "t")  # fmt: skip
    report = prepare(one, one.scan(), out, Filters(excluded=test.prompt_hashes()), held_out=0.2)
    assert report.dropped == {"malformed": 1, "duplicate": 1, "conflicting": 1, "excluded": 1}
    assert report.first_dropped["conflicting"] == ["d.jsonl:4 asks as d.jsonl:1 does and has another answer"]
    assert report.rows == 46 == report.written + report.held_out + report.dropped.total()
    assert 2 <= report.held_out <= 16
    train, held_out = read(out), read(held_out_path(out))
    assert (len(train), len(held_out)) == (report.written, report.held_out)
    assert not set(train) & set(held_out)
    assert {prompt for prompt, _ in train + held_out} == {"one  and two", "long " * 100} | {
        f"number {i}" for i in range(40)
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [out.name, held_out_path(out).name, "d.jsonl", "t.jsonl"]
    )
    # A copy is split as the whole is.
    again = source(out)
    with pytest.raises(DatasetError, match=r"0 for again\.held-out"):
        prepare(again, again.scan(), tmp_path / f"again.{suffix}", Filters(), held_out=0.2)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_copy_reads_as_what_it_was_made_of(tmp_path, suffix):
    lines = [
        {"q": MESSAGES, "a": {"numbers": [1], "target": "ü\u2028"}, "g": "code"},
        {"q": [{"role": "system", "content": "s"}, *MESSAGES], "a": "x\ny", "g": None},
    ]
    fields = {"prompt_field": "q", "gold_field": "a", "grader_field": "g", "prompt_template": "{prompt}!"}
    one = source(write_lines(tmp_path / "d.jsonl", lines), **fields)
    out = tmp_path / f"copy.{suffix}"
    prepare(one, one.scan(), out, Filters(keep_duplicates=True))
    copy = open_source(SourceSpec(path=str(out), grader_field="grader"), "data")
    before = open_source(SourceSpec(path=one.spec.path, **fields), "data")
    assert [row[1:] for row in copy] == [row[1:] for row in before]
    assert [row.grader for row in copy] == ["code", None]


def test_many_rows_go_into_several_row_groups(tmp_path):
    one = source(write_lines(tmp_path / "d.jsonl", [{"prompt": f"p{i}", "answer": i} for i in range(9000)]))
    report = prepare(one, one.scan(), tmp_path / "copy.parquet", Filters())
    assert report.written == 9000
    assert [gold for _, gold in read(tmp_path / "copy.parquet")] == [str(i) for i in range(9000)]


def test_long_prompts_are_left_out_by_tokens(tmp_path, model):
    prompts = ["a" * n for n in (1, 5, 6, 300)] + [MESSAGES]
    one = source(write_lines(tmp_path / "d.jsonl", [{"prompt": p, "answer": i} for i, p in enumerate(prompts)]))
    report = prepare(one, one.scan(), tmp_path / "copy.jsonl", Filters(False, frozenset(), PromptTokens(str(model)), 5))
    assert report.first_dropped == {"too_long": ["d.jsonl:3: 6 tokens", "d.jsonl:4: 300 tokens"]}
    assert [gold for _, gold in read(tmp_path / "copy.jsonl")] == ["0", "1", "4"]


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("there.jsonl", "is there already: give --force"),
        ("d.jsonl", "is what is read"),
        ("link.jsonl", "is what is read"),
        ("copy.csv", r"must end in \.jsonl or \.parquet"),
        ("none/copy.jsonl", "is not a folder: make it first"),
        ("folder.jsonl", "is a folder: give the name of a file"),
    ],
)
def test_a_copy_is_not_written_over_anything(tmp_path, rows, out, says):
    (tmp_path / "there.jsonl").write_text("precious")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(rows)
    before = rows.read_bytes()
    one = source(rows)
    with pytest.raises(DatasetError, match=says):
        prepare(one, one.scan(), tmp_path / out, Filters(), force=out == "d.jsonl")
    assert (tmp_path / "there.jsonl").read_text() == "precious"
    assert rows.read_bytes() == before


@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_a_copy_is_not_written_over_what_it_excludes(tmp_path, rows, held_out):
    out = tmp_path / "clean.jsonl"
    test = write_lines(held_out_path(out) if held_out else out, [{"prompt": "a", "answer": 1}])
    before = test.read_bytes()
    done = dapo("prepare", rows, out, "--force", "--held-out", held_out, "--exclude", test)
    assert (done.exit_code, test.read_bytes()) == (2, before)
    assert f"{test} is what is read: give another name" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["d.jsonl", test.name])


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_full_disk_leaves_nothing(tmp_path, suffix):
    """A limit on the size of files stands for the disk's end."""
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": f"p{i}" * 50, "answer": i} for i in range(2000)])
    out = tmp_path / f"copy.{suffix}"
    command = [sys.executable, "-m", "dapo.cli.main", "data", "prepare", str(path), str(out)]
    done = subprocess.run(["prlimit", "--fsize=2000", *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: {out} cannot be written: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["d.jsonl"]


def test_a_copy_that_fails_half_way_leaves_nothing(tmp_path):
    lines = [{"prompt": f"p{i}", "answer": i} for i in range(10_000)] + [{"prompt": MESSAGES, "answer": 1}]
    one = source(write_lines(tmp_path / "d.jsonl", lines))
    out = tmp_path / "copy.parquet"
    out.write_text("older")
    with pytest.raises(DatasetError, match="text or prompts that are messages, not both"):
        prepare(one, one.scan(), out, Filters(), force=True)
    assert out.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.parquet", "d.jsonl"]


# -- commands


def test_inspect_prints_what_it_found(rows):
    done = dapo("inspect", rows)
    assert done.exit_code == 0, done.output
    for said in ("GSM8K: prompt in question", "46, of which 45 usable", "d.jsonl:2: not a JSON object", "█", "gold: 3"):
        assert said in done.output


def test_inspect_prints_json(rows):
    found = json.loads(dapo("inspect", rows, "--json", "--rows", 1, "--set", "chat=true").output)
    assert found["fields"]["schema"] == "GSM8K"
    assert (found["rows"], found["usable"], found["duplicates"]) == (46, 45, 2)
    assert found["samples"][0]["prompt"] == [{"role": "user", "content": "one  and two"}]
    assert found["first_malformed"][0]["line"] == 2


def test_inspect_shows_no_control_characters(tmp_path):
    row = {"prompt": "\x1b]0;title\x07 [red]x[/red]\u202e", "answer": "\x1b[2J"}
    done = dapo("inspect", write_lines(tmp_path / "d.jsonl", [row]))
    assert done.exit_code == 0
    assert not set(done.output) & {"\x1b", "\x07", "\u202e"}
    assert "[red]x[/red]" in done.output


def test_inspect_counts_tokens(rows, model):
    done = dapo("inspect", rows, "--model", model)
    assert done.exit_code == 0, done.output
    assert "prompt length in tokens" in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "gold_feld=x"], "write it as field=value; the fields are subset, split, prompt_field"),
        (["--set", "limit_rows=0"], "data.limit_rows = 0: must be greater than 0"),
        (["--set", "gold_field=x"], "no column 'x'"),
        (["--model", "/none"], "/none has no tokenizer"),
    ],
)
def test_inspect_words_its_errors(rows, arguments, says):
    done = dapo("inspect", rows, *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_of_nothing():
    done = dapo("inspect", "/none.jsonl")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "/none.jsonl is not a file" in done.stderr


def test_prepare_reports_and_refuses_to_overwrite(tmp_path, rows, model):
    out = tmp_path / "clean.jsonl"
    arguments = ["prepare", rows, out, "--model", model, "--max-prompt-tokens", 50, "--held-out", 0.2]
    done = dapo(*arguments)
    assert done.exit_code == 0, done.output
    for said in ("46 rows, schema GSM8K", "1 × left out: longer than --max-prompt-tokens", "d.jsonl:5: 400 tokens"):
        assert said in done.output
    assert dapo(*arguments).exit_code == 2
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(out.read_bytes())
    again = dapo(*arguments, "--force", "--json", "--exclude", copy)
    assert again.exit_code == 2
    assert "nothing was written" in again.stderr
    report = json.loads(dapo(*arguments, "--force", "--json", "--keep-duplicates").output)
    assert report["dropped"] == {"malformed": 1, "too_long": 1}
    assert report["rows"] == report["written"] + report["held_out"] + 2


def test_prepare_wants_a_tokenizer_to_count_with(tmp_path, rows):
    done = dapo("prepare", rows, tmp_path / "out.jsonl", "--max-prompt-tokens", 50)
    assert done.exit_code == 2
    assert "--model and --max-prompt-tokens go together" in done.stderr


def test_dapo_math_is_prepared(tmp_path):
    out = tmp_path / "dapo.parquet"
    done = dapo("prepare", shared("dapo_math_17k.parquet"), out, "--json", "--held-out", 0.05)
    report = json.loads(done.output)
    assert report["rows"] == 17_917 == report["written"] + report["held_out"] + sum(report["dropped"].values())
    assert set(report["dropped"]) == {"duplicate", "conflicting"}
    assert 0.04 < report["held_out"] / 17_917 < 0.06
    copy = open_source(SourceSpec(path=str(out)), "copy")
    assert (len(copy), copy.duplicates().rows) == (report["written"], 0)


def test_a_verl_file_as_people_have_it(tmp_path):
    rows = [{"data_source": "d", "prompt": MESSAGES, "reward_model": {"style": "rule", "ground_truth": "1"}}] * 3
    done = dapo("inspect", write_parquet(tmp_path / "d.parquet", rows))
    assert "verl: prompt in prompt, gold answer in reward_model.ground_truth" in done.output
    assert "2 rows, 0 of them with another gold answer" in done.output
