"""`dapo runs` against a live service: what is printed, for people and for programs, and the exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from tests.integration.orchestrator.command.conftest import RECORDED
from tests.support.orchestrator.run_service import TOKEN, Service, base_env
from tests.support.waiting import until


@pytest.fixture
def dapo(platform):
    env = {"DAPO_URL": str(platform.http.base_url), "DAPO_API_TOKEN": TOKEN, "COLUMNS": "80"}

    def call(*arguments: object, code: int = 0, **more: str):
        done = CliRunner(env={**env, **more}).invoke(app, [str(one) for one in arguments])
        assert done.exit_code == code, done.output
        return done

    return call


@pytest.fixture
def spec_file(tmp_path: Path, spec: dict) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(spec))
    return path


def lines(done) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_is_started_looked_at_changed_and_ended(dapo, spec_file) -> None:
    made = dapo(
        "runs", "create", spec_file, "--set", "training.steps=9", "--label", "a=1", "--label", "b=2", "--notes", "n"
    )
    run_id = made.stdout.strip()
    assert made.stderr.startswith(f"run {run_id} is ")
    shown = lines(dapo("runs", "show", run_id, "--json"))[0]
    assert (shown["labels"], shown["notes"], shown["steps_total"]) == ({"a": "1", "b": "2"}, "n", 9)
    dapo("runs", "update", run_id, "--unlabel", "a", "--label", "b=3", "--priority", "5")
    (listed,) = lines(dapo("runs", "list", "--label", "b=3", "--name", "broken", "--json"))
    assert (listed["id"], listed["labels"], listed["priority"]) == (run_id, {"b": "3"}, 5)
    assert dapo("runs", "list", "--label", "a=1", "--name", "broken").stdout == ""
    assert lines(dapo("runs", "stop", run_id, "--json"))[0]["state"] == "stopped"
    assert f"run {run_id} goes on" in dapo("runs", "resume", run_id, "--set", "training.steps=10").stdout
    assert f"run {run_id} stopped at step 0 of 10" in dapo("runs", "stop", run_id).stdout
    assert lines(dapo("runs", "purge", run_id, "--json")) == [{"id": run_id, "purged": True}]
    assert "give --yes" in dapo("runs", "delete", run_id, code=2).stderr
    assert lines(dapo("runs", "delete", run_id, "--checkpoints", "--yes", "--json")) == [
        {"id": run_id, "deleted": True}
    ]
    assert "there is no run" in dapo("runs", "show", run_id, code=2).stderr


def test_the_paths_of_a_spec_are_those_of_where_it_is_asked_from(dapo, platform, spec, tmp_path, monkeypatch) -> None:
    spec["model"]["path"], spec["data"]["path"] = "model", "d.jsonl"
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    monkeypatch.chdir(tmp_path)
    run = lines(dapo("runs", "create", "spec.yaml", "--json"))[0]
    text = platform.http.get(f"/v1/runs/{run['id']}/spec").json()["yaml"]
    assert f"path: {tmp_path}/model" in text
    assert f"path: {tmp_path}/d.jsonl" in text
    dapo("runs", "stop", run["id"])


def test_the_same_key_makes_one_run(dapo, spec_file) -> None:
    first, again = (lines(dapo("runs", "create", spec_file, "--idempotency-key", "k", "--json"))[0] for _ in range(2))
    assert first["id"] == again["id"]
    dapo("runs", "stop", first["id"])


def test_what_waits_is_shown_with_its_place_and_its_reason(tmp_path, spec_file) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    small = Service(folder, "--max-runs", "1", module="tests.support.orchestrator.fake_service")
    env = {"DAPO_URL": str(small.http.base_url), "DAPO_API_TOKEN": TOKEN, "COLUMNS": "200"}
    call = lambda *arguments: CliRunner(env=env).invoke(app, arguments).stdout  # noqa: E731
    try:
        first, second, third = (call("runs", "create", str(spec_file)).strip() for _ in range(3))
        call("runs", "update", third, "--priority", "10")

        def listed() -> dict[str, dict]:
            return {run["id"]: run for run in map(json.loads, call("runs", "list", "--json").splitlines())}

        def places() -> list[int | None]:
            return [run["queue_position"] for run in map(listed().get, (first, third, second))]

        until(places, lambda found: found == [None, 1, 2])
        assert "queued #1" in call("runs", "list", "--state", "queued")
        assert listed()[third]["message"] in call("runs", "show", third)
        machine = json.loads(call("machine", "--json"))
        assert (machine["runs"], [one["run_id"] for one in machine["queue"]]) == (
            {"most": 1, "under_way": 1},
            [third, second],
        )
        told = call("machine")
        assert "1 runs under way of 1 at most, 2 queued" in told
        assert machine["queue"][0]["reason"] in told
        assert f"run {second} cancelled" in call("runs", "cancel", second)
        assert f"run {third} stopped" in call("runs", "stop", third)
        again = call("runs", "resume", third, "--set", "training.steps=20")
        assert again.startswith(f"run {third} is queued in ")
        assert "0/20" in call("runs", "list", "--state", "queued")
        call("runs", "cancel", third)
        assert json.loads(call("runs", "cancel", first, "--json"))["state"] == "cancelled"
    finally:
        small.close()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_and_panels_fit_the_terminal(dapo, recorded, spec_file, width) -> None:
    run_id = dapo("runs", "create", spec_file, "--label", f"long={'x' * 40}", "--notes", "word " * 40).stdout.strip()
    for command in (["list"], ["show", run_id], ["show", RECORDED], ["evaluations", RECORDED]):
        shown = dapo("runs", *command, COLUMNS=str(width)).stdout
        assert shown
        assert max(map(len, shown.splitlines())) <= width
    dapo("runs", "stop", run_id)


def test_a_panel_says_how_a_run_stands(dapo, recorded, spec_file) -> None:
    run_id = dapo("runs", "create", spec_file, "--label", "team=math").stdout.strip()
    shown = dapo("runs", "show", run_id, COLUMNS="200").stdout
    for told in ("starting", "0 of 2", "team=math", "1 malformed rows are left out", f"runs/{run_id}"):
        assert told in shown
    dapo("runs", "stop", run_id)
    assert "stopped on request" in dapo("runs", "show", run_id).stdout
    assert "40 trained" in dapo("runs", "show", RECORDED).stdout


def test_logs_evaluations_and_checkpoints(dapo, recorded) -> None:
    assert dapo("runs", "logs", RECORDED).stdout == "learner-0\n"
    assert dapo("runs", "logs", RECORDED, "learner-0", "-n", "2").stdout == "two \\x1b[2J\nthree\n"
    assert lines(dapo("runs", "logs", recorded, "learner-0", "--follow", "--json"))[-1] == {"line": "three"}
    assert "there is no log" in dapo("runs", "logs", RECORDED, "none", code=2).stderr.lower()
    rows = [line.split() for line in dapo("runs", "evaluations", RECORDED, COLUMNS="120").stdout.splitlines()]
    assert rows[-1] == ["aime", "10", "3", "0.500", "0.250–0.750", "0.500", "–", "4", "25%"]
    assert [one["step"] for one in lines(dapo("runs", "evaluations", RECORDED, "--json"))] == [0, 10]
    assert "has no checkpoint" in dapo("runs", "checkpoints", RECORDED).stderr
    elsewhere = dapo("runs", "evaluations", recorded, DAPO_URL="http://127.0.0.1:1")
    assert elsewhere.stdout == dapo("runs", "evaluations", recorded).stdout


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--wrong", "--limit", "2"],
        ["--correct", "--last", "2"],
        ["--truncated", "--step", "3"],
        ["--high-variance"],
        ["--prompt", "add 2"],
        ["--prompt", "train.jsonl:1", "--last", "4"],
        ["--set", "aime"],
        ["--set", "aime", "--last", "2", "--limit", "50"],
        ["--set", "aime", "--step", "0"],
        ["--compare"],
        ["--compare", "--last", "1"],
        ["--compare", "--set", "aime", "--prompt", "aime:2"],
        ["--json", "--limit", "100"],
        ["--compare", "--json"],
    ],
    ids=" ".join,
)
def test_a_service_tells_the_same_samples_as_the_folder(dapo, recorded, options) -> None:
    told = dapo("runs", "samples", RECORDED, *options)
    assert told.stdout
    assert told.stdout == dapo("runs", "samples", recorded, *options).stdout


@pytest.mark.parametrize("run", [RECORDED, "folder"])
def test_a_set_that_there_is_not_is_named(dapo, recorded, run) -> None:
    refused = dapo("runs", "samples", recorded if run == "folder" else run, "--set", "none", code=2)
    assert "has aime" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["runs", "show", "none"], 2, "there is no run 'none'"),
        (["runs", "list", "--state", "odd"], 2, "a run is queued, "),
        (["runs", "create", "none.yaml"], 2, "cannot read the spec none.yaml"),
        (["runs", "update", "none"], 2, "nothing to change"),
        (["runs", "scale", "none"], 2, "nothing to change"),
        (["runs", "update", "none", "--label", "x"], 2, "give KEY=VALUE"),
        (["runs", "list", "--url", "http://127.0.0.1:1"], 5, "does not answer"),
        (["runs", "list", "--url", "127.0.0.1"], 2, "is no URL of a run service"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_in_a_sentence_with_an_exit_code(dapo, arguments, code, said) -> None:
    refused = dapo(*arguments, code=code)
    assert said in refused.stderr
    assert refused.stdout == ""


def test_a_spec_that_is_wrong_is_refused_field_by_field(dapo, platform, spec_file) -> None:
    wrong = dapo("runs", "create", spec_file, "--set", "training.steps=many", "--set", "seed=x", code=2).stderr
    assert "training.steps = many: " in wrong
    assert "seed = x: " in wrong
    # What the service alone refuses, too.
    assert (
        "training.steps"
        in dapo("runs", "resume", _stopped(dapo, spec_file), "--set", "training.steps=0", code=2).stderr
    )


def _stopped(dapo, spec_file: Path) -> str:
    run_id = dapo("runs", "create", spec_file).stdout.strip()
    dapo("runs", "stop", run_id)
    return run_id


def test_waiting_for_a_run_tells_how_it_ended(service: Service, spec_file: Path) -> None:
    """Its model cannot be loaded, and that is its end."""
    env = {"DAPO_URL": str(service.http.base_url), "DAPO_API_TOKEN": TOKEN}
    done = CliRunner(env=env).invoke(app, ["runs", "create", str(spec_file), "--wait"])
    assert done.exit_code == 1, done.output
    run_id = done.stdout.splitlines()[0]
    assert service.http.get(f"/v1/runs/{run_id}").json()["state"] == "failed"
    assert f"run {run_id} failed" in done.stdout


def test_a_reader_that_leaves_is_no_error(platform, recorded) -> None:
    (recorded / "logs/long-0.log").write_text("line\n" * 10_000)
    env = base_env(DAPO_URL=str(platform.http.base_url), DAPO_API_TOKEN=TOKEN)
    command = [sys.executable, "-m", "dapo.cli.main", "runs", "logs", RECORDED, "long-0", "-n", "10000"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.wait(60)
    os.unlink(recorded / "logs/long-0.log")
    assert said == ""


def test_colour_is_for_terminals_that_want_it(dapo, recorded) -> None:
    assert "\x1b[" not in dapo("runs", "show", RECORDED).stdout
    assert "\x1b[" in dapo("runs", "show", RECORDED, FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[3" not in dapo("runs", "show", RECORDED, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color").stdout
