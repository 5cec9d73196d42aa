"""`dapo runs samples`: which groups it shows, and that what a model wrote is harmless on a terminal."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.terminal import shorten, visible
from services.orchestrator.records.samples import SampleArchive
from tests.support.samples import HOSTILE, evaluated, over_steps, sample


def dapo(*arguments, **env):
    return CliRunner(env={"COLUMNS": "80", **env}).invoke(app, ["runs", "samples", *map(str, arguments)])


# Text of models --------------------------------------------------------------------------------------------------


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text):
    shown = visible(text)
    for char in shown:
        assert char in "\n\t" or unicodedata.category(char)[0] != "C"
    if text.isprintable():
        assert shown == text


@given(st.text(st.characters(codec="utf-8") | st.just("\n"), max_size=3_000), st.integers(10, 200))
def test_shortened_texts_are_short_and_keep_their_end(text, characters):
    short = shorten(text, characters)
    assert len(short) <= characters + 60
    assert short.count("\n") <= 12
    assert short == text or "…" in short
    assert text.endswith(short[-6:])


# The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path):
    archive = SampleArchive(tmp_path, 4)
    for step in range(3):
        texts = [HOSTILE.encode(), b"word " * 400]
        archive.add(sample(step, step, texts=texts, row_id=f"train.jsonl:{step}", extracted="[i]41\x1b[2J"))
    for step, samples in over_steps().items():
        archive.write_evaluation("aime", step, samples)
    return tmp_path


@pytest.mark.parametrize("arguments", [(), ("--full",), ("--json",)])
@pytest.mark.parametrize("env", [{}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}], ids=["plain", "terminal"])
def test_what_a_model_wrote_is_shown_harmlessly(run_dir, arguments, env):
    done = dapo(run_dir, *arguments, **env)
    assert done.exit_code == 0, done.output
    for sign in ("\x1b]", "\x1b[2J", "\x07", "\u202e", "\r", "\x9b", "\u2028"):
        assert sign not in done.output
    assert "[bold]no markup[/bold] [/red]" in done.output
    assert ":smile:" in done.output
    assert ("\x1b[1;32mcorrect" in done.output) is bool(env and "--json" not in arguments)


def test_groups_are_shown_newest_last_with_their_verdicts(run_dir):
    shown = dapo(run_dir).stdout
    headings = [line for line in shown.splitlines() if line.startswith("step ")]
    assert [line.split(" · ")[0] for line in headings] == ["step 0", "step 1", "step 2"]
    assert headings[0].endswith("kept · train.jsonl:0 · g0000000000 · exact · 1 of 2 correct")
    assert "  #0 correct · equal · extracted [i]41\\x1b[2J · score 1 · reward 0.1 · 7 tokens · version 0\n" in shown
    assert "  #1 wrong truncated · different · " in shown
    assert "characters …]" in shown
    assert "word " * 400 in dapo(run_dir, "--full").stdout.replace("\n      ", "")


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (("--limit", 2), [1, 2]),
        (("--step", 1), [1]),
        (("--last", 2), [1, 2]),
        (("--prompt", "train.jsonl:0"), [0]),
        (("--high-variance",), [0, 1, 2]),
        (("--correct", "--truncated"), []),
        (("--set", "aime", "--limit", 9), [10, 10, 10, 10]),
        (("--set", "aime", "--step", 0), [0, 0, 0]),
        (("--set", "aime", "--last", 2, "--prompt", "problem 1"), [0, 10]),
    ],
)
def test_options_choose_groups(run_dir, arguments, steps):
    done = dapo(run_dir, "--json", *arguments)
    assert [json.loads(line)["step"] for line in done.stdout.splitlines()] == steps
    assert ("no group" in done.stderr) is (not steps)


def test_only_wanted_responses_are_shown(run_dir):
    shown = dapo(run_dir, "--wrong").stdout
    assert "  #1 wrong" in shown
    assert "  #0" not in shown
    assert "1 of 2 correct" in shown


def test_evaluations_stand_side_by_side_within_80_columns(run_dir):
    done = dapo(run_dir, "--compare")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["prompt", "gold", "step", "0", "step", "10"]
    assert lines[1].split() == ["+", "aime:1", "41", "1/3", "2/3"]
    assert lines[2].split() == ["Problem", "1", "7", "41"]
    assert lines[3].split() == ["-", "aime:2", "41", "2/3", "1/3"]
    assert "1 became right (+), 1 became wrong (-)" in done.stdout
    assert all(len(line) <= 80 for line in lines[:9])
    assert len(lines) == 10


@pytest.mark.parametrize("columns", ["60", "40", "30"])
def test_no_count_of_an_evaluation_is_cut_in_a_narrow_terminal(run_dir, columns):
    wide, narrow = (
        CliRunner(env={"COLUMNS": width}).invoke(app, ["runs", "samples", str(run_dir), "--compare"]).stdout.split()
        for width in ("120", columns)
    )
    counts = sorted(word for word in wide if "/3" in word)
    assert len(counts) >= 4
    assert sorted(word for word in narrow if "/3" in word) == counts


def test_many_evaluations_are_spread_over_the_width(tmp_path):
    archive = SampleArchive(tmp_path, 0)
    for step in range(0, 100, 10):
        archive.write_evaluation("aime", step, [evaluated(step, 1, (True,), ("41",))])
    done = dapo(tmp_path, "--compare")
    assert done.stdout.splitlines()[0].split()[2:] == ["step", "0", "step", "30", "step", "60", "step", "90"]
    assert "6 steps between them have no room" in done.stdout
    assert dapo(tmp_path, "--compare", "--last", 2).stdout.splitlines()[0].split()[2:] == ["step", "80", "step", "90"]
    rows = [json.loads(line) for line in dapo(tmp_path, "--compare", "--json").stdout.splitlines()]
    assert [list(row["cells"]) for row in rows] == [[str(step) for step in range(0, 100, 10)]]


def test_one_prompt_is_shown_whole_over_the_steps(run_dir):
    shown = dapo(run_dir, "--compare", "--prompt", "aime:1").stdout
    headings = [line.split(" · ") for line in shown.splitlines() if line.startswith("step ")]
    assert [(line[0], line[2], line[-1]) for line in headings] == [
        ("step 0", "aime:1", "1 of 3 correct"),
        ("step 10", "aime:1", "2 of 3 correct"),
    ]
    assert "step 10" in dapo(run_dir, "--compare", "--prompt", "problem").stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{run}/absent",), "no run folder"),
        (("{run}/evaluations",), "metrics.sample_groups_per_step"),
        (("{run}/evaluations", "--compare"), "has no evaluation yet"),
        (("{run}", "--set", "gsm8k"), "has aime"),
        (("{run}", "--wrong", "--correct"), "--wrong and --correct"),
        (("{run}", "--step", "1", "--last", "1"), "--step and --last"),
        (("{run}", "--compare", "--truncated"), "--compare and --truncated"),
        (("{run}", "--json", "--full"), "--json and --full"),
    ],
)
def test_errors_say_what_to_do(run_dir, arguments, words):
    done = dapo(*(argument.format(run=run_dir) for argument in arguments))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_several_sets_have_to_be_told_apart(run_dir):
    SampleArchive(run_dir, 0).write_evaluation("gsm8k", 0, over_steps()[0])
    done = dapo(run_dir, "--compare")
    assert done.exit_code == 2
    assert "--set aime or --set gsm8k" in done.stderr
    assert dapo(run_dir, "--compare", "--set", "gsm8k").exit_code == 0


def test_skipped_lines_are_noted_beside_the_output(run_dir):
    with (run_dir / "samples.jsonl").open("a") as file:
        file.write('{"step": 1}\n' * 7)
    done = dapo(run_dir, "--json")
    assert len(done.stdout.splitlines()) == 3
    assert f"skipped {run_dir / 'samples.jsonl'}:4: set: Field required" in done.stderr
    assert "skipped 2 more lines" in done.stderr
