"""`python -m services.learner.export RUN_DIR OUT` writes the run's newest checkpoint as a Hugging Face directory.

Every checkpoint holds the whole model in that format, so this only checks, copies and casts; it needs neither the
learner's ranks nor its device. One file of weights is in memory at a time.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from dapo.host.files import follow_umask, write_json
from dapo.host.storage import told_in_words
from dapo.records.folder import RunFolder
from dapo.spec.load import parse_spec
from dapo.spec.problem import SpecError
from services.learner.checkpoint import CheckpointError, read_latest

AS_BASE = "as-base"
DTYPES = ("bfloat16", "float16", "float32", AS_BASE)


class ExportError(ValueError):
    """The model cannot be exported as asked; the message says why and what to do."""


def export(run_dir: Path, target: Path, dtype: str | None = None) -> int:
    """Write the newest checkpoint's model to `target`, in `dtype` if one is given; returns its step.

    Modes follow the umask. Where it fails, nothing of it stays. Raises CheckpointError when there is no usable
    checkpoint, FileExistsError when `target` is not empty, ExportError when the base model's dtype is not known or a
    weight has no form in `dtype`; OSError and SafetensorError where `target` cannot be written.
    """
    latest = read_latest(run_dir)
    if latest is None:
        raise CheckpointError(f"{run_dir} has no checkpoint yet; see checkpoint.every_steps")
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; give a new directory")
    directory, manifest = latest
    wanted = base_dtype(run_dir, manifest.dtype) if dtype == AS_BASE else dtype or manifest.dtype
    with _removed_on_failure(target):
        shutil.copytree(directory / "hf", target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        if wanted != manifest.dtype:
            cast(target, getattr(torch, wanted))
        follow_umask(target)
    return manifest.step


@contextmanager
def _removed_on_failure(target: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def base_dtype(run_dir: Path, trained: str) -> str:
    """Of the model that the run started from, by its config.json. Raises ExportError where that is not here or does not
    say it."""
    path = RunFolder(run_dir).spec
    try:
        model = parse_spec(path.read_text(encoding="utf-8")).model.path
        dtype = AutoConfig.from_pretrained(Path(model).expanduser() if Path(model).is_dir() else model).dtype
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0] if isinstance(error, SpecError) else "its base model is not here"
        raise ExportError(f"{path}: {why}. Give --dtype; {trained} keeps the weights as they were trained") from error
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ExportError(f"the config.json of {model} names no dtype to write in. Give --dtype, e.g. {trained}")
    return name


def cast(directory: Path, dtype: torch.dtype) -> None:
    """Write the floating-point weights in `directory` anew as `dtype`, rounded to nearest. Raises ExportError for a
    value beyond its range."""
    sizes = 0
    for path in sorted(directory.glob("*.safetensors")):
        weights = {name: _cast(name, weight, dtype) for name, weight in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
        sizes += sum(weight.nbytes for weight in weights.values())
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    write_json(directory / "config.json", config | {_dtype_key(config): str(dtype).removeprefix("torch.")})
    index_path = directory / "model.safetensors.index.json"
    if index_path.exists():
        index = json.loads(index_path.read_text(encoding="utf-8"))
        write_json(index_path, index | {"metadata": index["metadata"] | {"total_size": sizes}})


def _cast(name: str, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not weight.is_floating_point():
        return weight
    made = weight.to(dtype)
    if made.isinf().any() and not weight.isinf().any():
        raise ExportError(f"{name} has values beyond the range of {dtype}. Give --dtype bfloat16 or float32")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, help="default: as it was trained")
    arguments = parser.parse_args()
    with told_in_words(arguments.out, SafetensorError):
        try:
            step = export(arguments.run_dir, arguments.out, arguments.dtype)
        except (CheckpointError, ExportError, FileExistsError) as error:
            sys.exit(f"error: {error}")
    config = json.loads((arguments.out / "config.json").read_text(encoding="utf-8"))
    sys.stdout.write(f"model of step {step} in {config[_dtype_key(config)]}: {arguments.out}\n")


def _dtype_key(config: dict[str, Any]) -> str:
    return "dtype" if "dtype" in config else "torch_dtype"


if __name__ == "__main__":
    main()
