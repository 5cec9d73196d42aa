"""`dapo runs export`: a checkpoint is written by the service's own process and copied to whoever asks."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from dapo.cli.main import app
from dapo.records.checkpoints import Manifest, directory_name, file_sizes, mark, write_manifest
from dapo.records.folder import RunFolder
from tests.support.models import tiny_qwen2
from tests.support.orchestrator.run_service import TOKEN, create


def test_an_export_is_written_there_and_copied_here(platform, spec, tmp_path) -> None:
    tiny_qwen2(0).save_pretrained(tmp_path / "base")
    run = create(platform, {**spec, "model": {"path": str(tmp_path / "base")}})
    platform.http.post(f"/v1/runs/{run['id']}/stop")
    root = RunFolder(Path(run["run_dir"])).checkpoints
    directory = root / directory_name(3, 1)
    tiny_qwen2(1).save_pretrained(directory / "hf")
    files = file_sizes(directory)
    write_manifest(directory, Manifest(3, 1, seed=0, world_size=1, zero_stage=0, dtype="float32", files=files))
    mark(root, 1, [directory.name])
    env = {"DAPO_URL": str(platform.http.base_url), "DAPO_API_TOKEN": TOKEN}
    call = lambda *arguments: CliRunner(env=env).invoke(app, ["runs", *map(str, arguments)])  # noqa: E731
    done = call("export", run["id"], tmp_path / "out", "--dtype", "bfloat16", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["step"], found["state"], found["copy"]) == (3, "succeeded", str(tmp_path / "out"))
    there = {path.name: path.read_bytes() for path in Path(found["directory"]).iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == there
    assert "model.safetensors" in there
    assert call("export", run["id"], "--dtype", "bfloat16").stdout == f"{found['directory']}\n"
    (listed,) = [json.loads(line) for line in call("exports", run["id"], "--json").stdout.splitlines()]
    assert listed["name"] == found["name"]
    refused = call("export", run["id"], tmp_path / "out")
    assert (refused.exit_code, "is there already" in refused.stderr) == (2, True)
    assert call("export", run["id"], "--step", "7").exit_code == 2
