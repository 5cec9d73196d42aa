"""Tracking elsewhere: off unless it is written, without secrets, and only where its packages and keys are there."""

from pathlib import Path

import pytest

from dapo.spec import SpecError, parse_spec
from dapo.spec.checks import tracking
from dapo.spec.load import check_inputs, dump_yaml, show_tree
from dapo.spec.tree.tracking import TrackingSpec
from tests.support.spec import MINIMAL_YAML, refusal

ALL = "tracking: {tensorboard: true, wandb: {}, mlflow: {tracking_uri: 'file:mlruns'}, opentelemetry: {}}\n"


def test_tracking_is_off_unless_a_section_is_written() -> None:
    assert parse_spec(MINIMAL_YAML).tracking.parts == ()
    everything = parse_spec(MINIMAL_YAML + ALL)
    assert everything.tracking.parts == ("tensorboard", "wandb", "mlflow", "opentelemetry")
    assert parse_spec(dump_yaml(everything)) == everything
    assert parse_spec(MINIMAL_YAML, ["tracking.wandb.project=math"]).tracking.parts == ("wandb",)
    assert parse_spec(dump_yaml(everything), ["tracking.wandb=null"]).tracking.wandb is None


@pytest.mark.parametrize(
    ("section", "field", "words"),
    [
        ("mlflow: {tracking_uri: 'https://me:canary@h'}", "tracking.mlflow.tracking_uri", "MLFLOW_TRACKING_PASSWORD"),
        ("mlflow: {tracking_uri: 'canary@h'}", "tracking.mlflow.tracking_uri", "does not have the right form"),
        ("mlflow: {tracking_uri: 'file://host/mlruns'}", "tracking.mlflow.tracking_uri", "file:///srv/mlruns"),
        ("wandb: {base_url: 'https://h?api_key=canary'}", "tracking.wandb.base_url", "WANDB_API_KEY"),
        ("wandb: {api_key: canary}", "tracking.wandb.api_key", "is no field of a spec"),
        ("opentelemetry: {endpoint: 'http://h?token=canary'}", "tracking.opentelemetry.endpoint",
         "OTEL_EXPORTER_OTLP_HEADERS"),
        ("opentelemetry: {endpoint: 'http://:4318'}", "tracking.opentelemetry.endpoint", "is no URL with a host"),
        ("opentelemetry: {endpoint: 'http://h:99999'}", "tracking.opentelemetry.endpoint", "is no URL with a host"),
        ("opentelemetry: {endpoint: 'h:4318'}", "tracking.opentelemetry.endpoint", "does not have the right form"),
        ("wandb: {project: a/b}", "tracking.wandb.project", "does not have the right form"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_field_and_repeats_no_secret(section: str, field: str, words: str) -> None:
    (line,) = refusal(f"{MINIMAL_YAML}tracking: {{{section}}}\n")
    assert line.startswith(field)
    assert words in line
    assert "canary" not in line


@pytest.mark.parametrize("part", TrackingSpec.model_fields)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Another name stands for one that is not installed: what is installed cannot be taken away here."""
    monkeypatch.setitem(tracking._PACKAGES, part, ("dapo", "no_such.package"))
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "d.jsonl").write_text('{"prompt": "p", "answer": "a"}\n')
    spec = parse_spec(f"model: {{path: {tmp_path}}}\ndata: {{path: {tmp_path}/d.jsonl}}\n{ALL}")
    with pytest.raises(SpecError) as error:
        check_inputs(spec)
    (problem,) = error.value.problems
    assert problem.field == f"tracking.{part}"
    assert f"pip install 'dapo[{part}]'" in problem.message


def test_wandb_is_told_online_with_a_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    online, offline = (
        parse_spec(f"{MINIMAL_YAML}tracking: {{wandb: {{mode: {mode}}}}}") for mode in ("online", "offline")
    )
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (problem,) = tracking.missing_for_tracking(online)
    assert problem.field == "tracking.wandb.mode"
    assert "Set WANDB_API_KEY" in problem.message
    assert list(tracking.missing_for_tracking(offline)) == []
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    assert list(tracking.missing_for_tracking(online)) == []


def test_what_is_shown_of_a_spec_has_its_tracking() -> None:
    shown = show_tree(parse_spec(MINIMAL_YAML + ALL))["tracking"]
    assert shown["mlflow"]["tracking_uri"] == "file:mlruns"
    assert shown["opentelemetry"]["endpoint"] == "http://127.0.0.1:4318"
