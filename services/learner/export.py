"""`python -m services.learner.export RUN_DIR OUT` writes a checkpoint of the run, the newest by default, as a Hugging
Face directory.

Every checkpoint holds the whole model in that format, so this only checks, copies and casts; it needs neither the
learner's ranks nor its device. One file of weights is in memory at a time. A LoRA adapter that was merged in a coarser
dtype than is asked for is merged anew, into the base model.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from dapo.host.files import follow_umask, write_json
from dapo.host.processes import die_with_parent
from dapo.host.storage import told_in_words
from dapo.records.checkpoints import Checkpoint, CheckpointError, ExportDtype, find_newest, find_step, list_marked
from dapo.records.folder import RunFolder
from dapo.spec.load import parse_spec
from dapo.spec.problem import SpecError
from services.learner.checkpoint import ADAPTER, MERGING, MODEL
from services.learner.model.lora import Rounding

AS_BASE = ExportDtype.AS_BASE
DTYPES = tuple(dtype.value for dtype in ExportDtype)
_SURVIVING_SHARE = 0.95
"""Of a LoRA update; of less people are warned."""


class ExportError(ValueError):
    """The model cannot be exported as asked; the message says why and what to do."""


class Exported(NamedTuple):
    step: int
    dtype: str
    surviving_share: float
    """Of a LoRA update, what is left of it in the weights written; 1 without LoRA."""


def export(run_dir: Path, target: Path, dtype: str | None = None, step: int | None = None) -> Exported:
    """Write the model of the checkpoint of `step`, or of the newest, to `target`, in `dtype` if one is given.

    Modes follow the umask. Where it fails, nothing of it stays. Raises CheckpointError as `choose` does, or where the
    run deletes it meanwhile, FileExistsError when `target` is not empty, ExportError when the base model's dtype is not
    known or a weight has no form in `dtype`; SystemExit, in words, where a disk refuses `target`.
    """
    directory, manifest = _checkpoint(run_dir, target, step)
    wanted = base_dtype(run_dir, manifest.dtype) if dtype == AS_BASE else dtype or manifest.dtype
    adapter = directory / ADAPTER
    with _told_when_pruned(directory), _removed_on_failure(target):
        updates = adapter_updates(adapter) if adapter.exists() else {}
        shutil.copytree(directory / MODEL, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        casting = Casting(getattr(torch, wanted), updates)
        if adapter.exists() and wanted != manifest.dtype != "float32":
            merge(run_dir, adapter, target, casting)
        elif wanted != manifest.dtype:
            cast(target, casting)
        follow_umask(target)
        share = casting.rounding.surviving_share
        if adapter.exists() and wanted == manifest.dtype:
            share = json.loads((adapter / MERGING).read_text(encoding="utf-8"))["surviving_share"]
    return Exported(manifest.step, wanted, share)


def export_adapter(run_dir: Path, target: Path, step: int | None = None) -> int:
    """Write the LoRA adapter of the checkpoint of `step`, or of the newest, to `target`, in PEFT's format; returns the
    step. Raises as `export` does, and ExportError where the run has none."""
    directory, manifest = _checkpoint(run_dir, target, step)
    if not (directory / ADAPTER).exists():
        raise ExportError(f"{run_dir} has no LoRA adapter, as lora.rank is not set. Leave out --adapter")
    with _told_when_pruned(directory), _removed_on_failure(target):
        shutil.copytree(directory / ADAPTER, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        (target / MERGING).unlink()
        follow_umask(target)
    return manifest.step


def choose(run_dir: Path, step: int | None = None) -> tuple[Checkpoint, list[str]]:
    """The checkpoint of `step`, or the newest whole one with what is the matter with each that is newer.

    Raises CheckpointError when there is none that can be used; for a step it lists those that there are.
    """
    root = RunFolder(run_dir).checkpoints
    if step is not None:
        return find_step(root, step), []
    checkpoint, damage = find_newest(root)
    if checkpoint is None and damage:
        raise CheckpointError(f"{run_dir} has no whole checkpoint: {'; '.join(damage)}. Restore what is damaged")
    if checkpoint is None:
        raise CheckpointError(f"{run_dir} has no checkpoint yet; see checkpoint.every_steps")
    return checkpoint, damage


def _checkpoint(run_dir: Path, target: Path, step: int | None) -> Checkpoint:
    checkpoint, _ = choose(run_dir, step)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; give a new directory")
    return checkpoint


@contextmanager
def _told_when_pruned(directory: Path) -> Iterator[None]:
    """Around reading a checkpoint: the run may go on, and delete it once newer ones have taken its place."""
    try:
        yield
    except OSError as error:
        if directory in list_marked(directory.parent):
            raise
        raise CheckpointError(
            f"{directory.name} was deleted while it was copied, as newer ones have taken its place. Export again; "
            "checkpoint.keep_last and checkpoint.keep_every_steps keep more of them"
        ) from error


@contextmanager
def _removed_on_failure(target: Path) -> Iterator[None]:
    """What is written, not a folder that was there. A full disk is told with what is free before that."""
    was_there = target.exists()
    try:
        with told_in_words(target, SafetensorError):
            yield
    except BaseException:
        for path in target.iterdir() if was_there else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not was_there:
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


class Casting:
    """Weights to `dtype`, each rounded to nearest; and how much of a LoRA update is left in them.

    `updates` has ‖update‖² of each weight with one. The rounding of the weight itself counts against its update.
    """

    def __init__(self, dtype: torch.dtype, updates: Mapping[str, float]) -> None:
        self.dtype = dtype
        self.rounding = Rounding(update=sum(updates.values()))
        self._updated = updates.keys()

    def __call__(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Raises ExportError for a value beyond the range of the dtype."""
        if not weight.is_floating_point():
            return weight
        made = weight.to(self.dtype)
        if made.isinf().any() and not weight.isinf().any():
            raise ExportError(f"{name} has values beyond the range of {self.dtype}. Give --dtype bfloat16 or float32")
        if name in self._updated:
            self.rounding.error += float((made.float() - weight.float()).square().sum())
        return made


def adapter_updates(adapter: Path) -> dict[str, float]:
    """‖(α / r) · B A‖² by the name of the weight that it is added to."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    found = {}
    for name, a in tensors.items():
        layer, mark, _ = name.removeprefix("base_model.model.").partition(".lora_A.")
        if mark:
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            update = b.float() @ a.float() * (config["lora_alpha"] / config["r"])
            found[f"{layer}.weight"] = float(update.square().sum())
    return found


def merge(run_dir: Path, adapter: Path, target: Path, casting: Casting) -> None:
    """Write W + (α / r) · B A anew in `target`, computed in float32 and rounded once.

    The whole model is in memory. Raises ExportError where the base model is not here or a value has no form in `dtype`.
    """
    from peft import PeftModel

    path = parse_spec(RunFolder(run_dir).spec.read_text(encoding="utf-8")).model.path
    try:
        base = AutoModelForCausalLM.from_pretrained(Path(path).expanduser(), dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"the base model {path} is not here, into which the adapter is merged. Put it there, or give --adapter"
        ) from error
    model = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    for file in [*target.glob("*.safetensors"), *target.glob("*.safetensors.index.json")]:
        file.unlink()
    model.save_pretrained(target, state_dict={name: casting(name, w) for name, w in model.state_dict().items()})
    _write_dtype(target, casting.dtype)


def cast(directory: Path, casting: Casting) -> None:
    """Write the floating-point weights in `directory` anew. Raises ExportError as `casting` does."""
    sizes = 0
    for path in sorted(directory.glob("*.safetensors")):
        weights = {name: casting(name, weight) for name, weight in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
        sizes += sum(weight.nbytes for weight in weights.values())
    _write_dtype(directory, casting.dtype)
    index_path = directory / "model.safetensors.index.json"
    if index_path.exists():
        index = json.loads(index_path.read_text(encoding="utf-8"))
        write_json(index_path, index | {"metadata": index["metadata"] | {"total_size": sizes}})


def _write_dtype(directory: Path, dtype: torch.dtype) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    key = "dtype" if "dtype" in config else "torch_dtype"
    write_json(directory / "config.json", config | {key: str(dtype).removeprefix("torch.")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--dtype", choices=DTYPES, help="default: as it was trained")
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapter alone")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process ends")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    if arguments.die_with_parent:
        die_with_parent()
    try:
        done = _export(arguments)
    except (CheckpointError, ExportError, FileExistsError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{done}: {arguments.out}\n")


def _end(number: int, frame: object) -> NoReturn:
    """As an error: what is written by then is removed."""
    sys.exit(128 + number)


def _export(arguments: argparse.Namespace) -> str:
    checkpoint, damage = choose(arguments.run_dir, arguments.step)
    if damage:
        sys.stderr.write(f"warning: the newest checkpoint is damaged, one before it is taken: {'; '.join(damage)}\n")
    step = checkpoint.manifest.step
    if arguments.adapter:
        return f"adapter of step {export_adapter(arguments.run_dir, arguments.out, step)}"
    done = export(arguments.run_dir, arguments.out, arguments.dtype, step)
    if done.surviving_share < _SURVIVING_SHARE:
        sys.stderr.write(
            f"warning: merged into {done.dtype} weights, {done.surviving_share:.0%} of the LoRA update survives the "
            "rounding. dapo export --dtype float32 keeps all of it, and so does --adapter\n"
        )
    return f"model of step {done.step} in {done.dtype}"


if __name__ == "__main__":
    main()
