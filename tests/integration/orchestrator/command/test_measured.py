"""`dapo runs metrics` and `compare` say the same of a run by its service and by its folder."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.cli.runs import metrics
from dapo.records.identity import RunIdentity, write_identity
from tests.integration.orchestrator.command.conftest import RECORDED, ROWS
from tests.support.orchestrator.run_service import TOKEN, Service


def dapo(url: str, *arguments: str | Path) -> str:
    env = {"DAPO_URL": url, "DAPO_API_TOKEN": TOKEN, "COLUMNS": "80"}
    done = CliRunner(env=env).invoke(app, ["runs", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_service_and_a_folder_measure_the_same(
    platform: Service, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = recorded.parent / "another"
    shutil.copytree(recorded, other)
    write_identity(other, RunIdentity("another", "2026-01-02T00:00:00.000+00:00"))
    spec = (other / "spec.yaml").read_text()
    (other / "spec.yaml").write_text(f"{spec}seed: 7\n")
    there, nowhere = str(platform.http.base_url), "http://127.0.0.1:9"

    measured = dapo(there, "metrics", RECORDED, "--json")
    assert json.loads(measured)["columns"]["accuracy_mean"] == [row["accuracy_mean"] for row in ROWS]
    assert measured == dapo(nowhere, "metrics", recorded, "--json")
    assert dapo(there, "metrics", RECORDED, "--csv") == dapo(nowhere, "metrics", recorded, "--csv")

    monkeypatch.setattr(metrics, "MOST_POINTS", 2)
    assert json.loads(dapo(there, "metrics", RECORDED, "--json")) == json.loads(measured), "no step is left out"
    assert dapo(there, "metrics", RECORDED, "--csv") == dapo(nowhere, "metrics", recorded, "--csv")
    monkeypatch.undo()

    compared = json.loads(dapo(there, "compare", RECORDED, "another", "--json"))
    assert [(one["field"], one["values"][1]) for one in compared["differences"]] == [("seed", 7)]
    assert {point["verdict"] for row in compared["evaluations"] for point in row["points"]} == {None, "within noise"}
    local = json.loads(dapo(nowhere, "compare", recorded, other, "--json"))
    assert (local["runs"], local["evaluations"]) == (compared["runs"], compared["evaluations"])
    assert local["differences"] == compared["differences"]
