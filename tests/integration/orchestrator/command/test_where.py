"""How the command line finds the service of a run by the run's folder alone."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from dapo.cli.embedded import EmbeddedService
from dapo.cli.main import app
from dapo.cli.runs.where import find_run, full_group_id
from dapo.client import RunClient
from dapo.environment import DEFAULT_URL
from dapo.host.processes import python_command
from dapo.records.folder import RunFolder
from tests.support.orchestrator.run_service import base_env


def why(folder: Path):
    return CliRunner(env={"DAPO_URL": "", "DAPO_API_TOKEN": ""}).invoke(app, ["runs", "why", str(folder), "g3"])


def test_the_service_of_a_train_is_found_until_it_ends(tmp_path: Path, spec: dict) -> None:
    with EmbeddedService(tmp_path, tmp_path / "logs") as service:
        with RunClient(service.url, service.token) as client:
            folder = Path(client.create(json.dumps(spec), "first")["run_dir"])
        notice = RunFolder(folder).service
        service.say_where(notice)
        assert stat.S_IMODE(notice.stat().st_mode) == 0o600
        place = find_run(str(folder), None)
        assert (place.url, place.token) == (service.url, service.token)
        assert place.ask(lambda client, run_id: client.get(run_id)["run_dir"]) == str(folder)
    assert not notice.exists()
    assert find_run(str(folder), None).url == DEFAULT_URL
    assert "nothing is known of group g0000000003" in why(folder).output


def test_a_service_that_was_killed_is_not_waited_for(tmp_path: Path, spec: dict) -> None:
    with EmbeddedService(tmp_path, tmp_path / "logs") as service, RunClient(service.url, service.token) as client:
        folder = Path(client.create(json.dumps(spec), "first")["run_dir"])
    RunFolder(folder).service.write_text(json.dumps({"url": service.url, "token": service.token}))
    asked = why(folder)
    assert asked.exit_code == 2
    assert "nothing is known of group g0000000003" in asked.output
    RunFolder(folder).service.write_text("{")
    assert find_run(str(folder), None).url == DEFAULT_URL


def test_a_run_goes_on_in_the_folder_that_is_named_though_a_copy_lies_beside_it(tmp_path: Path, spec: dict) -> None:
    with EmbeddedService(tmp_path, tmp_path / "logs") as service, RunClient(service.url, service.token) as client:
        folder = Path(client.create(json.dumps(spec), "run")["run_dir"])
    copy = shutil.copytree(folder, tmp_path / "a-copy")
    before = RunFolder(copy).events.read_bytes()
    command = python_command("dapo.cli.main", "train", "--resume", str(folder))
    done = subprocess.run(command, env=base_env(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"in {folder}" in done.stdout
    assert json.loads(RunFolder(folder).summary.read_text())["state"] == "failed"
    assert RunFolder(copy).events.read_bytes() == before


def test_a_group_may_be_given_by_its_number() -> None:
    assert [full_group_id(one) for one in ("12", "g12", "g0000000012", "e3")] == [*3 * ["g0000000012"], "e0000000003"]
