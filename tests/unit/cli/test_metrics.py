"""`dapo runs metrics` and `dapo runs compare` of run folders whose service is gone."""

import csv
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.host.processes import python_command
from dapo.records.identity import RunIdentity, write_identity
from services.orchestrator.records.samples import SampleArchive
from tests.support.samples import sample

PNG = b"\x89PNG"


def dapo(*arguments: str | Path, width: int = 80) -> Any:
    env = {"COLUMNS": str(width), "DAPO_URL": "http://127.0.0.1:9", "DAPO_API_TOKEN": ""}
    return CliRunner(env=env).invoke(app, ["runs", *map(str, arguments)])


def write_run(folder: Path, name: str, steps: int, *, scale: float = 1.0, clip: float = 0.28) -> Path:
    run = folder / name
    run.mkdir()
    (run / "spec.yaml").write_text(
        f"name: {name}\nmodel: {{path: ./m}}\ndata: {{path: d.jsonl}}\nalgorithm: {{clip_high: {clip}}}\n"
    )
    write_identity(run, RunIdentity(name, "2026-01-01T00:00:00.000+00:00"))
    rows = [
        {"step": step, "accuracy_mean": scale * step / 100, "reward_mean": None, "time_s": 2.0 * step,
         "clipped_high_probability_mean": 1e-5, "generated_tokens_per_s": 1_234_567.5 * step}
        for step in range(1, steps + 1)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    average = {"value": 0.3 * scale, "low": 0.3 * scale - 0.04, "high": 0.3 * scale + 0.04}
    (run / "evaluations.jsonl").write_text(
        json.dumps({"step": steps, "set": "aime-2024", "samples": 32, "avg_at_k": average}) + "\n"
    )
    (run / "summary.json").write_text('{"state": "succeeded"}')
    return run


@pytest.mark.parametrize("width", [80, 60])
def test_the_newest_values_their_change_and_curve_fit(tmp_path: Path, width: int) -> None:
    done = dapo("metrics", write_run(tmp_path, "a", 40), width=width)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= width
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["accuracy_mean"][:2] == ["0.4", "+0.39"]
    assert rows["accuracy_mean"][2].startswith("▁")
    assert rows["accuracy_mean"][2].endswith("█")
    assert rows["generated_tokens_per_s"][:2] == ["49.38", "M"]
    assert rows["clipped_high_probability_mean"][:2] == ["1e-05", "+0"]
    assert "reward_mean" not in rows, "it was not measured"
    assert lines[-1] == "steps 1 to 40; change: of the newest value against the first"


def test_metrics_are_named_and_given_as_json_and_csv(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", 5)
    found = json.loads(dapo("metrics", run, "--names", "accuracy_mean, reward_mean", "--json").stdout)
    assert (found["step"], found["last_step"]) == ([1, 2, 3, 4, 5], 5)
    assert found["columns"] == {"accuracy_mean": [0.01, 0.02, 0.03, 0.04, 0.05], "reward_mean": [None] * 5}
    rows = list(csv.reader(io.StringIO(dapo("metrics", run, "--since-step", "3", "--csv").output)))
    assert rows[0][:2] == ["step", "time_s"]
    assert [row[0] for row in rows[1:]] == ["4", "5"]


def test_data_has_every_step_however_many_there_are(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", 0)
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(1, 20_002)))
    assert len(dapo("metrics", run, "--csv").stdout.splitlines()) == 20_002
    assert json.loads(dapo("metrics", run, "--json").stdout)["step"] == list(range(1, 20_002))


def test_curves_are_drawn(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, "a", 5), write_run(tmp_path, "b", 9)
    assert dapo("metrics", first, "--plot", tmp_path / "one.png").exit_code == 0
    assert dapo("compare", first, second, "--plot", tmp_path / "two.png").exit_code == 0
    for name in ("one.png", "two.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--names", "accuracy"], "'accuracy' is no metric: accuracy_mean, accuracy_reward_mean, batch_accuracy_mean"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--names", "entropy", "--plot", "x.png"], "none of it was measured"),
    ],
)
def test_what_cannot_be_shown_is_told(tmp_path: Path, options: list[str], message: str) -> None:
    done = dapo("metrics", write_run(tmp_path, "a", 5), *options)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("name", ["reward_mean", "grad_norm"])
def test_a_metric_that_was_asked_for_and_not_measured_is_named(tmp_path: Path, name: str) -> None:
    """The first is null in every row, the second is in none."""
    run = write_run(tmp_path, "a", 2)
    told = f"not measured in these steps: {name}\n"
    alone = dapo("metrics", run, "--names", name)
    assert (alone.exit_code, alone.stdout, alone.stderr) == (0, "", told)
    beside = dapo("metrics", run, "--names", f"{name},accuracy_mean")
    assert (beside.exit_code, beside.stderr) == (0, told)
    assert [line.split()[0] for line in beside.stdout.splitlines()[1:-1]] == ["accuracy_mean"]
    data = dapo("metrics", run, "--names", f"{name},accuracy_mean", "--csv")
    assert (data.stdout, data.stderr) == (f"step,{name},accuracy_mean\n1,,0.01\n2,,0.02\n", told)
    assert dapo("metrics", run, "--names", name, "--json").stderr == told


def test_steps_in_which_nothing_was_measured_are_no_table(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", 0)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2}\n')
    done = dapo("metrics", run)
    assert (done.exit_code, done.stdout) == (0, "nothing was measured in steps 1 to 2\n")


def test_an_evaluation_in_which_every_problem_failed_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", 2)
    row = {"step": 3, "set": "aime-2024", "problems": 0, "avg_at_k": None, "failed_problems": 3}
    with (run / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    done = dapo("evaluations", run)
    assert done.exit_code == 0, done.exception
    assert done.stdout.splitlines()[-1].split() == ["aime-2024", "3", "–", "–", "–", "–", "–", "0", "–"]


DAMAGES = [
    ("metrics", "metrics.jsonl", '{"step": 1}\nrubbish\n{"step": 3}\n', "metrics.jsonl:2 is not JSON"),
    ("metrics", "metrics.jsonl", '{"step": 1}\n{"loss": 1.0}\n', "metrics.jsonl:2 has no step"),
    ("metrics", "metrics.jsonl", '5\n{"step": 2}\n', "metrics.jsonl:1 is not a JSON object"),
    ("metrics", "metrics.jsonl", '{"step": 1, "loss": "much"}\n', "metrics.jsonl: loss of step 1 is no number"),
    ("metrics", "metrics.jsonl", b'{"step": 1}\n\xff\n{"step": 3}\n', "metrics.jsonl:2 is not JSON"),
    ("compare", "metrics.jsonl", "5\n", "metrics.jsonl:1 is not a JSON object"),
    ("compare", "summary.json", "[]", "summary.json is not a JSON object"),
    ("compare", "summary.json", '{"st', "summary.json is not JSON"),
    ("compare", "summary.json", '{"state": 5}', "state"),
    ("compare", "evaluations.jsonl", '{"step": 1, "set": "a", "samples": 2, "avg_at_k": 5}\n', "evaluations.jsonl:1"),
    ("compare", "spec.yaml", "steps: [", "spec.yaml"),
    ("evaluations", "evaluations.jsonl", '{"step": 1}\n', "evaluations.jsonl:1 is no evaluation: set"),
    ("evaluations", "evaluations.jsonl", '{"step": 1, "set": "a", "avg_at_k": {"value": 1, "low": 1, "high": 1}}\n',
     "evaluations.jsonl:1 is no evaluation: samples"),
    ("evaluations", "evaluations.jsonl", "rubbish\n{}\n", "evaluations.jsonl:1 is not JSON"),
    ("evaluations", "evaluations.jsonl", b"\xff\n", "evaluations.jsonl is not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name", "text", "message"), DAMAGES)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_damaged_file_of_a_run_is_named(
    tmp_path: Path, command: str, name: str, text: str | bytes, message: str, options: list[str]
) -> None:
    run, whole = write_run(tmp_path, "a", 2), write_run(tmp_path, "b", 2)
    (run / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    done = dapo(command, run, *([whole] if command == "compare" else []), *options)
    assert done.exit_code == 2, done.exception
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.parametrize(
    "text", ["[]", "5", '"x"', '{"url": 5, "token": ""}', '{"url": "http://127.0.0.1:9"}', b"\xff"]
)
def test_a_run_folder_whose_notice_of_a_service_is_damaged_is_read_all_the_same(
    tmp_path: Path, text: str | bytes
) -> None:
    run = write_run(tmp_path, "a", 2)
    (run / "service.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert dapo("metrics", run, "--csv").stdout.splitlines()[-1].startswith("2,")


@pytest.mark.parametrize("command", ["metrics", "samples", "watch"])
@pytest.mark.parametrize("run", ["x" * 300, "a\0b"], ids=["long", "zero"])
def test_what_can_be_no_folder_is_the_id_of_a_run(command: str, run: str) -> None:
    done = dapo(command, run)
    assert done.exit_code == 5, done.exception
    assert "the run service does not answer" in done.stderr


def test_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", 0)
    assert dapo("metrics", run).output == "no step has been finished yet\n"
    write_run(tmp_path, "b", 3)
    assert "0/" in dapo("compare", run, tmp_path / "b").output


@pytest.mark.parametrize("width", [80, 60])
def test_runs_are_compared_side_by_side(tmp_path: Path, width: int) -> None:
    first = write_run(tmp_path, "the-first-run-20260101", 40)
    second = write_run(tmp_path, "the-second-run-20260101", 20, scale=2.0, clip=0.2)
    third = write_run(tmp_path, "the-third-run-20260101", 30, scale=1.1)
    done = dapo("compare", first, second, third, width=width)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(done.output.split())
    assert text.startswith("at step 20, which all have finished; means of the last 5 steps")
    assert "best" not in text, "it is the last"
    for word in ("0.180", "0.360", "22,222,215", "0:00:40", "0:01:20", "aime-2024 avg@32, last"):
        assert word in text
    for word in ("[0.260, 0.340]", "[0.560, 0.640]", "higher", "within noise", "algorithm.clip_high", "0.28", "0.2"):
        assert word in text


def test_the_comparison_as_json(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, "a", 4), write_run(tmp_path, "b", 2, scale=2.0)
    found = json.loads(dapo("compare", first, second, "--json").output)
    assert found["common_step"] == 2
    assert [run["common"]["accuracy"] for run in found["runs"]] == [pytest.approx(0.015), pytest.approx(0.03)]
    assert found["differences"] == []
    assert [row["points"][1]["verdict"] for row in found["evaluations"]] == ["higher", "higher"]


def test_one_run_alone_or_twice_is_not_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", 4)
    assert "give two runs or more" in dapo("compare", run).stderr
    assert "a run is named twice" in dapo("compare", run, run).stderr
    assert dapo("compare", run, run).exit_code == 2


COMMANDS = [
    ["metrics", "a", "--csv"], ["metrics", "a", "--json"], ["compare", "a", "b", "--json"], ["samples", "a", "--json"],
    ["why", "a", "g1", "--json"], ["dead-letters", "a"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_whoever_does_not_read_the_output_any_more_is_no_error(tmp_path: Path, command: list[str]) -> None:
    for name in "ab":
        archive = SampleArchive(write_run(tmp_path, name, 3), 4)
        archive.add(sample(1, 1))
    letter = {"id": "1-0", "at": "now", "group": "g0000000001", "reason": "r", "detail": "", "explanation": ""}
    (tmp_path / "a/dead_letters.jsonl").write_text(json.dumps(letter) + "\n")
    env = {**os.environ, "DAPO_URL": "http://127.0.0.1:9", "DAPO_API_TOKEN": ""}
    reading, writing = os.pipe()
    os.close(reading)
    call = python_command("dapo.cli.main", "runs", *command)
    done = subprocess.run(
        call, cwd=tmp_path, env=env, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 1
    assert "roken" not in done.stderr, done.stderr
