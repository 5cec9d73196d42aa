"""`dapo export`: the dtype that is asked for, the modes that the umask has, and nothing where it fails."""

import json
import os
import stat
import subprocess
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dapo.host.processes import python_command
from dapo.records.checkpoints import CheckpointError, Manifest, file_sizes, mark, prune, write_manifest
from dapo.spec.load import dump_yaml
from services.learner import export as module
from services.learner.export import ExportError, export
from tests.support.disks import small_disk
from tests.support.models import tiny_qwen2
from tests.support.paths import REPO
from tests.support.spec import spec


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_qwen2(0).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def run_dir(tmp_path: Path, base: Path) -> Path:
    """A run of `base` whose checkpoint of step 3 has float32 weights in several files, for the owner alone."""
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step-000003"
    tiny_qwen2(1).save_pretrained(checkpoint / "hf", max_shard_size="100KB")
    assert len(list(checkpoint.glob("hf/*.safetensors"))) > 1
    for path in checkpoint.glob("hf/*"):
        path.chmod(0o600)
    files = {str(path.relative_to(checkpoint)): path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()}
    manifest = {"step": 3, "incarnation": 1, "seed": 0, "world_size": 1, "zero_stage": 0, "dtype": "float32"}
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "files": files, "format": 1}))
    (run / "checkpoints" / "latest.json").write_text(json.dumps({"directory": checkpoint.name}))
    (run / "spec.yaml").write_text(dump_yaml(spec(model__path=str(base))))
    return run


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: weight for path in directory.glob("*.safetensors") for name, weight in load_file(path).items()}


@pytest.mark.parametrize(
    ("dtype", "written"),
    [
        ("as-base", "bfloat16"),
        (None, "float32"),
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
    ],
)
def test_the_weights_have_the_dtype_that_was_asked_for(
    run_dir: Path, tmp_path: Path, dtype: str | None, written: str
) -> None:
    assert export(run_dir, tmp_path / "out", dtype).step == 3
    trained, exported = (weights(path) for path in (run_dir / "checkpoints/step-000003/hf", tmp_path / "out"))
    wanted = getattr(torch, written)
    assert exported.keys() == trained.keys()
    for name, weight in exported.items():
        assert weight.dtype == wanted
        assert torch.equal(weight, trained[name].to(wanted))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in exported.values())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == wanted


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_modes_follow_the_umask(run_dir: Path, tmp_path: Path, umask: int, file: int, folder: int, dtype: str) -> None:
    before = os.umask(umask)
    try:
        export(run_dir, tmp_path / "out", dtype)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == folder
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {file}


def test_a_value_beyond_the_range_of_float16_is_refused_and_leaves_nothing(run_dir: Path, tmp_path: Path) -> None:
    path = min((run_dir / "checkpoints/step-000003/hf").glob("*.safetensors"))
    found = load_file(path)
    name = min(found)
    found[name].view(-1)[0] = 1e6
    save_file(found, path, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=f"{name} has values beyond the range of torch.float16"):
        export(run_dir, tmp_path / "out", "float16")
    assert not (tmp_path / "out").exists()
    assert export(run_dir, tmp_path / "out", "bfloat16").step == 3


@pytest.mark.parametrize("copied", [0, 1])
def test_a_checkpoint_that_the_run_deletes_meanwhile_is_told_and_leaves_nothing(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: int
) -> None:
    root, copies = run_dir / "checkpoints", []

    def copy(source: str, target: str) -> None:
        if len(copies) == copied:
            mark(root, 1, ["step-000004.e1"])
            prune(root, 1, ["step-000004.e1"])
        copies.append(source)
        copyfile(source, target)

    monkeypatch.setattr(module.shutil, "copyfile", copy)
    with pytest.raises(CheckpointError, match=r"step-000003 was deleted while it was copied.* checkpoint\.keep_last"):
        export(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_the_base_model_is_gone_its_dtype_is_asked_for(run_dir: Path, base: Path, tmp_path: Path) -> None:
    base.rename(base.with_name("elsewhere"))
    with pytest.raises(ExportError, match="its base model is not here"):
        export(run_dir, tmp_path / "out", "as-base")
    assert export(run_dir, tmp_path / "out", "float32").step == 3


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python_command(module.__name__, *map(str, arguments)),
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_full_disk_is_told_in_one_sentence(run_dir: Path, tmp_path: Path, dtype: str) -> None:
    with small_disk(tmp_path / "full", kib=200) as disk:
        done = command(run_dir, disk / "out", "--dtype", dtype)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: the disk is full: {disk}/out")
        assert "MiB are free" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (disk / "out").exists()


def test_the_command_says_what_it_wrote(run_dir: Path, tmp_path: Path) -> None:
    done = command(run_dir, tmp_path / "out", "--dtype", "as-base")
    assert (done.returncode, done.stdout) == (0, f"model of step 3 in bfloat16: {tmp_path}/out\n")


def add_checkpoint(run_dir: Path, step: int) -> Path:
    """A newer one than the fixture's, of other weights."""
    root = run_dir / "checkpoints"
    directory = root / f"step-{step:06d}.e2"
    tiny_qwen2(step).save_pretrained(directory / "hf")
    write_manifest(directory, Manifest(step, 2, 0, 1, 0, "float32", file_sizes(directory)))
    mark(root, 2, [directory.name, "step-000003"])
    return directory


def test_a_step_chooses_among_the_checkpoints_that_were_kept(run_dir: Path, tmp_path: Path) -> None:
    newest = add_checkpoint(run_dir, 6)
    assert export(run_dir, tmp_path / "newest").step == 6
    done = command(run_dir, tmp_path / "older", "--step", 3)
    assert (done.returncode, done.stdout) == (0, f"model of step 3 in float32: {tmp_path}/older\n")
    for name, weight in weights(newest / "hf").items():
        assert torch.equal(weights(tmp_path / "newest")[name], weight)
    older, trained = weights(tmp_path / "older"), weights(run_dir / "checkpoints/step-000003/hf")
    assert all(torch.equal(older[name], weight) for name, weight in trained.items())

    done = command(run_dir, tmp_path / "none", "--step", 4)
    assert done.returncode == 1
    assert "has no checkpoint of step 4: those kept are of the steps 3, 6" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_of_a_damaged_newest_checkpoint_the_one_before_is_exported_with_a_warning(
    run_dir: Path, tmp_path: Path
) -> None:
    damaged = add_checkpoint(run_dir, 6) / "hf" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = command(run_dir, tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, f"model of step 3 in float32: {tmp_path}/out\n")
    assert done.stderr.startswith(f"warning: the newest checkpoint is damaged, one before it is taken: {damaged}: ")
