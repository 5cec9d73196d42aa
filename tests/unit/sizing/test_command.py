"""`dapo size`: what it takes from a spec, its options and a run, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.spec.yaml_text import write_yaml
from tests.support.spec import spec, tree

SPEEDS = ("--generated-per-s", "2000", "--trained-per-s", "1000")


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(write_yaml(tree(training__prompts_per_step=8, resources__redis__memory_mib=100_000)))
    return path


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["size", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_is_given_is_what_is_computed_with(spec_file: Path) -> None:
    found = json.loads(run(spec_file, *SPEEDS, "--accuracy", "0.1", "--response-tokens", "1000", "--json"))
    rate = 1 - 0.1**16 - 0.9**16
    assert found["assumed"]["keep_rate"] == pytest.approx(rate)
    assert found["pace"]["training_s"] == 8 * 16 * 1000 / 1000
    assert found["pace"]["generation_s"] == pytest.approx(8 * 16 * 1000 / rate / 2000)
    assert "generation  " in run(spec_file, *SPEEDS)


def test_a_run_gives_what_it_measured_and_an_option_goes_before_it(spec_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "spec.yaml").write_text(write_yaml(spec().model_dump(mode="json")))
    row = {"keep_rate": 0.4, "response_length_mean": 900.0, "generated_tokens_per_s": 6000.0, "generators": 3}
    row |= {"generator_idle": 0.0, "trained_tokens": 8000.0, "step_s": 10.0, "learner_idle": 0.2}
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step, **row}) + "\n" for step in (1, 2, 3)))
    found = json.loads(run(spec_file, "--from", folder, "--keep-rate", "0.5", "--json"))["assumed"]
    assert (found["keep_rate"], found["response_tokens"]) == (0.5, 900)
    assert (found["generated_per_s"], found["trained_per_s"]) == (2000, 1000)


def test_the_parameters_of_a_model_on_this_machine_are_counted(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}, "a": {"shape": [3, 4]}, "b": {"shape": [5]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    path = tmp_path / "spec.yaml"
    path.write_text(write_yaml(tree(model__path=str(tmp_path))))
    assert json.loads(run(path, "--json"))["assumed"]["parameters"] == 17
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert json.loads(run(path, "--json"))["assumed"]["parameters"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keep-rate", "0"], "--keep-rate 0 must be above 0"),
        (["--keep-rate", "nan"], "--keep-rate nan must be above 0"),
        (["--keep-rate", "2"], "at most 1"),
        (["--accuracy", "1"], "keeps no group"),
        (["--accuracy", "0.5", "--keep-rate", "0.5"], "exclude each other"),
        (["--generated-per-s", "-1"], "--generated-per-s -1 must be above 0"),
        (["--from", "nowhere"], "--from nowhere"),
        (["--set", "training.stepz=3"], "training.stepz"),
    ],
)
def test_what_cannot_be_is_refused_by_name(spec_file: Path, arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["size", str(spec_file), *arguments])
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output
