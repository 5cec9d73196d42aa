"""The command line without a run: help, dry runs, error texts."""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.cli.train import summary_lines
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


WRONG = {
    "no URL": ["--url", "foo"],
    "another scheme": ["--url", "ftp://x"],
    "a port that is none": ["--url", "http://u:geheim/1@h:1"],
    "no host": ["--url", "http://u:geheim@"],
}


@pytest.mark.parametrize("command", [["list"], ["show", "r-1"], ["watch", "r-1"], ["stop", "r-1"], ["samples", "r-1"]])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_url_that_is_none_is_a_wrong_command(command, wrong):
    done = dapo("runs", *command, *WRONG[wrong])
    assert done.exit_code == 2, done.output
    assert "DAPO_URL" in done.output
    assert "geheim" not in done.output


@pytest.mark.parametrize(
    ("name", "value"), [("DAPO_TLS_CA", "none.pem"), ("DAPO_TLS_CERT", "none.pem"), ("DAPO_API_TOKEN", "geheim\n")]
)
def test_settings_that_cannot_be_used_are_a_wrong_command(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    done = dapo("runs", "list", "--url", "https://127.0.0.1:1")
    assert done.exit_code == 2, done.output
    assert name in done.output
    assert "geheim" not in done.output


def test_a_wrong_url_is_no_reason_to_read_the_folder(tmp_path):
    (tmp_path / "spec.yaml").touch()
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "r-1", "history": "", "created_at": ""}))
    done = dapo("runs", "metrics", str(tmp_path), "--url", "foo")
    assert done.exit_code == 2, done.output
    assert "'foo'" in done.output


def test_a_password_of_a_url_is_not_printed():
    done = dapo("runs", "list", "--url", "http://u:geheim@127.0.0.1:1")
    assert done.exit_code == 5
    assert "***@127.0.0.1:1" in done.output
    assert "geheim" not in done.output


class Deaf(BaseHTTPRequestHandler):
    """Breaks every request off without an answer."""

    keys: list[str]

    def do_POST(self) -> None:
        self.keys.append(self.headers["Idempotency-Key"])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("given", [[], ["--idempotency-key", "mine"]])
def test_a_create_without_an_answer_says_how_it_is_asked_again(given):
    fresh = type("FreshDeaf", (Deaf,), {"keys": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), fresh) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = dapo("runs", "create", str(REPO / "examples" / "reverse.yaml"), "--url", url, *given)
        server.shutdown()
    (key,) = set(fresh.keys)
    assert key == (given or ["", key])[1]
    assert done.exit_code == 5
    assert f"again with --idempotency-key {key}" in done.output
