"""The command line without a run: help, dry runs, error texts, progress."""

import io
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.cli.progress import LiveDisplay, Pace, PlainDisplay, Waiting, duration, show
from dapo.cli.train import summary_lines
from dapo.contracts.events import WAITING, WAITING_OVER, Alert, ServiceChanged, StateChanged, StepFinished
from tests.support.paths import REPO

EXAMPLES = sorted((REPO / "examples").glob("*.yaml"))


def dapo(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def loaded_modules(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPO, check=True)
    return set(done.stderr.split())


def test_help_loads_nothing_heavy():
    modules = loaded_modules("import dapo, dapo.cli.main\ntry: dapo.cli.main.app(['--help'])\nexcept SystemExit: pass")
    assert "dapo.cli.main" in modules
    assert not modules & {"torch", "pydantic", "redis", "grpc", "fastapi", "matplotlib", "pyarrow", "httpx"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_dry_run_of_each_example_needs_no_torch(path):
    code = (
        "from typer.testing import CliRunner\nfrom dapo.cli.main import app\n"
        f"done = CliRunner().invoke(app, ['train', {str(path)!r}, '--dry-run'])\n"
        "assert done.exit_code == 0, done.output\nassert 'services.learner' in done.output, done.output"
    )
    modules = loaded_modules(code)
    assert not modules & {"torch", "transformers", "sglang", "deepspeed", "redis", "matplotlib"}


def test_a_dry_run_shows_the_overridden_spec():
    done = dapo("train", str(REPO / "examples/reverse.yaml"), "--dry-run", "--set", "training.steps=7")
    assert done.exit_code == 0
    assert "steps: 7" in done.output


@pytest.mark.parametrize("more", [["--dry-run"], []], ids=["dry run", "run"])
def test_a_response_limit_above_the_models_context_is_refused(tmp_path, more):
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64}')
    data = REPO / "examples/data/word_problems.jsonl"
    overrides = [f"model.path={tmp_path}", f"data.path={data}", "sampling.max_response_tokens=40"]
    options = [part for override in overrides for part in ("--set", override)]
    done = dapo("train", str(REPO / "examples/reverse.yaml"), *options, *more)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: sampling.max_response_tokens = 40: does not fit the context")
    assert "Set at most 30" in done.stderr


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("sampling.top_p=0.9", "sampling.top_p"),
        ("training.stepz=3", "training.stepz"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate"),
        ("training", "--set training"),
    ],
)
def test_a_wrong_spec_is_one_message_that_names_the_field(override, field):
    done = dapo("train", str(REPO / "examples/reverse.yaml"), "--set", override)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert field in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_spec_or_input_is_a_worded_error(tmp_path):
    done = dapo("train", str(tmp_path / "none.yaml"))
    assert (done.exit_code, "none.yaml" in done.stderr) == (2, True)
    spec = tmp_path / "spec.yaml"
    spec.write_text("model: {path: ./absent-model}\ndata: {path: ./absent.jsonl}\n")
    done = dapo("train", str(spec))
    assert done.exit_code == 2
    assert "model.path" in done.stderr
    assert "data.path" in done.stderr


def test_demo_outside_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = dapo("demo")
    assert done.exit_code == 2
    assert "examples/reverse.yaml is not in" in done.stderr


def test_plot_and_export_of_no_run(tmp_path):
    done = dapo("plot", str(tmp_path))
    assert (done.exit_code, "spec.yaml is missing" in done.stderr) == (2, True)
    done = dapo("export", str(tmp_path), str(tmp_path / "out"))
    assert (done.exit_code, "has no spec.yaml" in done.stderr) == (2, True)


def test_plot_draws_the_picture_anew(tmp_path):
    (tmp_path / "spec.yaml").write_text("model: {path: ./m}\ndata: {path: d.jsonl}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "accuracy_mean": 0.25}\n')
    done = dapo("plot", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "curves.png").exists()


def test_torch_is_asked_for_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("dapo.cli.children.find_spec", lambda name: None)
    done = dapo("model", "toy-reverse", str(tmp_path))
    assert done.exit_code == 2
    assert "dapo model toy-reverse needs torch" in done.stderr


def test_what_is_awaited_follows_the_events():
    waiting = Waiting(10)
    assert "Redis" in waiting.text
    for worker, role in (("generator-0", "generator"), ("generator-1", "generator"), ("learner-0", "learner")):
        waiting.update(ServiceChanged(worker_id=worker, role=role, state="launched"))
    assert waiting.text == "starting SGLang (generator-0, generator-1) and loading the model…"
    for worker in ("generator-0", "generator-1"):
        waiting.update(ServiceChanged(worker_id=worker, role="generator", state="ready"))
    assert "first weights" in waiting.text
    waiting.update(StateChanged(state="running"))
    assert "first batch" in waiting.text
    waiting.update(StepFinished(row={"step": 1}))
    assert waiting.text == ""
    waiting.update(StateChanged(state="draining"))
    assert "last steps" in waiting.text


def test_a_standstill_is_awaited_until_the_run_goes_on():
    told = Alert(cause=WAITING, message="step 2 waits 41 s for group g0000000123")
    for end in (Alert(cause=WAITING_OVER, message="step 2 goes on"), StepFinished(row={"step": 2})):
        waiting = Waiting(10)
        waiting.update(StateChanged(state="running"))
        waiting.update(StepFinished(row={"step": 1}))
        waiting.update(told)
        waiting.update(Alert(message="something else"))
        assert waiting.text == told.message
        waiting.update(end)
        assert waiting.text == ""


def test_while_a_run_stands_still_no_time_is_left_to_tell():
    out = io.StringIO()
    with LiveDisplay(Console(file=out, force_terminal=True, width=120), 10) as display:
        for step in (1, 2):
            display.event(StepFinished(row={**ROW, "step": step}))
        assert display._bar.tasks[0].fields["left"] == "0:00:00"
        display.event(Alert(cause=WAITING, message="step 3 waits 41 s for the learner"))
        assert display._bar.tasks[0].fields["left"] == "–"
        display.event(Alert(cause=WAITING_OVER, message="step 3 goes on"))
        assert display._bar.tasks[0].fields["left"] == "0:00:00"
    assert "alert: step 3 waits 41 s for the learner" in out.getvalue()


def test_time_left():
    pace = Pace(10)
    pace.update(1, 100.0)
    assert pace.left_s() is None
    pace.update(2, 104.0)
    pace.update(3, 106.0)
    assert pace.left_s() == pytest.approx(7 * 3.0)
    assert duration(3725) == "1:02:05"


ROW = {"step": 3, "accuracy_mean": 0.25, "reward_mean": None, "generated_tokens_per_s": 2417.6, "policy_version": 3}


def test_off_a_terminal_each_step_is_one_plain_line():
    out = io.StringIO()
    with PlainDisplay(Console(file=out, width=40), 10) as display:
        display.event(StateChanged(state="starting"))
        display.event(StateChanged(state="starting"))
        display.event(Alert(message="look [here]"))
        display.event(StepFinished(row=ROW))
    lines = out.getvalue().splitlines()
    assert lines[1] == "alert: look [here]"
    assert len(lines) == 3
    assert lines[2].startswith("step 3/10  accuracy 0.250  reward –")
    assert "tokens/s 2,418" in lines[2]


def test_the_live_display_shows_the_last_step():
    out = io.StringIO()
    with LiveDisplay(Console(file=out, force_terminal=True, width=120), 10) as display:
        display.event(StepFinished(row=ROW))
        display.note("stopping…")
    text = out.getvalue()
    assert "0.250" in text
    assert "3/10" in text
    assert "stopping…" in text


FULL_ROW = {
    "step": 123, "accuracy_mean": 0.25, "reward_mean": -0.812, "response_length_mean": 12345.6, "entropy": 0.123,
    "keep_rate": 0.5, "staleness_mean": 1.25, "policy_version": 123, "generated_tokens_per_s": 1112417.6,
}  # fmt: skip


@pytest.mark.parametrize("width", [120, 80, 60, 40, 20])
def test_the_live_display_cuts_no_number_and_no_heading(width):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with LiveDisplay(console, 1000) as display:
        for step in (122, 123):
            display.event(StepFinished(row={**FULL_ROW, "step": step}))
    text = out.getvalue()
    for word in ("0.250", "-0.812", "12345.6", "0.123", "0.50", "1.25", "1,112,418", "123/1000", "left", "0:00:0"):
        assert word in text
    for heading in ("accuracy", "reward", "length", "entropy", "keep rate", "staleness", "version", "tokens/s"):
        assert heading in text


def test_show():
    assert show({"x": float("nan")}, "x", "{:.1f}") == "–"
    assert show({}, "x", "{:.1f}") == "–"
    assert show({"x": 2}, "x", "{:.1f}") == "2.0"


@pytest.mark.parametrize(
    ("steps", "averaged", "words"),
    [
        (1, 1, "0.210  (one step)"),
        (2, 1, "0.210 → 0.500  (the first and the last step)"),
        (5, 2, "0.210 → 0.500  (means of the first and the last 2 steps)"),
        (60, 5, "0.210 → 0.500  (means of the first and the last 5 steps)"),
    ],
)
def test_the_accuracy_of_a_run_is_that_of_different_steps(steps, averaged, words):
    summary = {
        "steps": steps, "steps_total": 60, "elapsed_s": 1.0, "accuracy_start": 0.21, "accuracy_end": 0.5,
        "averaged_steps": averaged, "generated_tokens": 1, "ledger": {}, "evaluations": {},
    }  # fmt: skip
    assert summary_lines(summary)[0] == f"accuracy    {words}"


def test_the_summary_in_words():
    summary = {
        "steps": 60, "steps_total": 60, "elapsed_s": 301.2, "accuracy_start": 0.21, "accuracy_end": None,
        "averaged_steps": 5,
        "rested_prompts": 17,
        "generated_tokens": 512345, "ledger": {"trained": 3840, "filtered": 500, "failed": 0},
        "evaluations": {"held-out": [
            {"step": 0, "samples": 4, "avg_at_k": {"value": 0.2, "low": 0.1, "high": 0.3}},
            {"step": 60, "samples": 4, "avg_at_k": None},
        ]},
    }  # fmt: skip
    text = "\n".join(summary_lines(summary))
    assert "0.210 → –  (means of the first and the last 5 steps)" in text
    assert "held-out: avg@4 0.200 [0.100, 0.300] at step 0 → –" in text
    assert "60 of 60 in 0:05:01" in text
    assert "512,345" in text
    assert "17 prompts were left out of later epochs" in text
    assert "4340 issued: 3840 trained, 500 filtered" in text
