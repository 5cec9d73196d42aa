"""Checkpoints that are complete or absent.

    checkpoints/step-000020/shards/…      DeepSpeed's files: the policy's parameters and optimizer state
    checkpoints/step-000020/value/…       the same of the value network, where there is one
    checkpoints/step-000020/reference.pt  the reference model, where it is refreshed
    checkpoints/step-000020/rng-rank0.pt  random states, one file a rank
    checkpoints/step-000020/hf/…          the model in Hugging Face format, LoRA merged
    checkpoints/step-000020/adapter/…     the LoRA adapter in PEFT's format, where there is one
    checkpoints/step-000020/manifest.json what the checkpoint stands for, and the size of every file
    checkpoints/latest.json               the marker: which directory counts

Invariant: the marker names only a directory whose files, manifest included, were on disk before. It is replaced
atomically; what it does not name does not exist. DeepSpeed's own `latest` is not written: it can name missing shards.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from transformers import AutoTokenizer

from dapo.host.files import follow_umask, sync, write_json
from dapo.host.storage import StorageError, in_words, storage_error
from dapo.records.folder import RunFolder
from dapo.spec import RunSpec
from services.learner.model.lora import Rounding, ServedWeight, write_adapter
from services.learner.step.trainer import Trainer

_FORMAT = 1
MODEL = "hf"
ADAPTER = "adapter"
MERGING = "merging.json"
"""Beside the adapter: how much of it is left in the merged model (Rounding)."""
_SHARDS = "shards"
_VALUE = "value"
_REFERENCE = "reference.pt"
_MARKER = "latest.json"
_MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """The checkpoint that the marker names cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint holds. `step` finished steps: batches 0 … step − 1 are trained into it."""

    step: int
    incarnation: int
    seed: int
    world_size: int
    zero_stage: int
    dtype: str
    files: dict[str, int]
    format: int = _FORMAT


def _files(directory: Path) -> dict[str, int]:
    return {str(p.relative_to(directory)): p.stat().st_size for p in sorted(directory.rglob("*")) if p.is_file()}


def read_latest(run_dir: Path) -> tuple[Path, Manifest] | None:
    """The checkpoint that counts; None before the first. Raises CheckpointError when its files are not as written."""
    marker = RunFolder(run_dir).checkpoints / _MARKER
    if not marker.exists():
        return None
    directory = marker.parent / json.loads(marker.read_text())["directory"]
    path = directory / _MANIFEST
    if not path.exists():
        raise CheckpointError(
            f"{marker} names {directory.name}, which has no manifest; restore it or remove the marker"
        )
    manifest = _read_manifest(path)
    found = _files(directory)
    for name, size in manifest.files.items():
        if found.get(name) != size:
            raise CheckpointError(f"{directory / name}: {found.get(name)} bytes, the manifest says {size}; restore it")
    return directory, manifest


def _read_manifest(path: Path) -> Manifest:
    """Raises CheckpointError for one that another release of dapo wrote."""
    written = json.loads(path.read_text())
    if written.keys() != Manifest.__dataclass_fields__.keys() or written["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} was written by another release of dapo (format {written.get('format')}, this one reads {_FORMAT} "
            "without further fields); go on with that release, or start a new run from the model in its folder hf"
        )
    return Manifest(**written)


class CheckpointStore:
    """Writes and reads the checkpoints of one run in RUN_DIR/checkpoints.

    All ranks call `write` and `load` together; rank 0 alone calls `mark`, which makes a written checkpoint the one that
    counts. A crash at any moment leaves the marked checkpoint whole: what has no marker does not exist, and is deleted
    by the next attempt at the same step. Everything of it survives a restart; it is read back only with the same number
    of ranks, ZeRO stage and dtype.
    """

    def __init__(self, run_dir: Path, spec: RunSpec, trainer: Trainer) -> None:
        self.root = RunFolder(run_dir).checkpoints
        self.run_dir = run_dir
        self.spec = spec
        self.engine = trainer.engine
        self.value = trainer.value
        # One that is never refreshed is read from model.path.
        refreshed = spec.algorithm.reference_refresh_steps is not None
        self.reference = trainer.preparation.reference if refreshed else None
        self.ranks = trainer.ranks

    def write(self, step: int, incarnation: int) -> Path:
        """Everything but the marker, on disk when this returns on rank 0. Raises StorageError."""
        directory = self.root / f"step-{step:06d}"
        try:
            self._write(directory, step, incarnation)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own
            refused = storage_error(error, self.root)
            if refused is None:
                raise
            raise StorageError(f"the checkpoint of step {step} cannot be written: {in_words(refused)}") from error
        return directory

    def _write(self, directory: Path, step: int, incarnation: int) -> None:
        if self.ranks.leads:
            # Left over from an attempt that never got its marker.
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        dist.barrier()
        self.engine.deepspeed.save_checkpoint(str(directory), tag=_SHARDS, save_latest=False)
        if self.value is not None:
            self.value.deepspeed.save_checkpoint(str(directory), tag=_VALUE, save_latest=False)
        if self.reference is not None and self.ranks.leads:
            torch.save(self.reference.state_dict(), directory / _REFERENCE)
        torch.save(_rng_state(), directory / f"rng-rank{self.ranks.rank}.pt")
        self._write_model(directory)
        dist.barrier()
        if self.ranks.leads:
            files = _files(directory)
            for name in files:
                sync(directory / name)
            manifest = Manifest(
                step=step,
                incarnation=incarnation,
                seed=self.spec.seed,
                world_size=self.ranks.world_size,
                zero_stage=self.engine.zero_stage,
                dtype=self.spec.model.dtype,
                files=files,
            )
            write_json(directory / _MANIFEST, asdict(manifest), durable=True)

    def mark(self, directory: Path) -> None:
        """Make `directory` the checkpoint that counts, and delete those beyond `checkpoint.keep_last`.

        Rank 0 only, and only while it holds the learner's newest epoch.
        """
        write_json(self.root / _MARKER, {"directory": directory.name}, durable=True)
        older = sorted(path for path in self.root.glob("step-*") if path.name <= directory.name)
        for path in older[: -self.spec.checkpoint.keep_last]:
            shutil.rmtree(path)

    def _write_model(self, directory: Path) -> None:
        """Gather the parameters one by one to rank 0 and write them as a Hugging Face directory, and with LoRA the
        adapter, too."""
        rounding = Rounding()
        state = self._gather(self.engine.module.served_weights(), rounding)
        adapter = self._gather(self.engine.module.adapter_weights(), rounding)
        if not self.ranks.leads:
            return
        self.engine.module.causal.save_pretrained(directory / MODEL, state_dict=state)
        AutoTokenizer.from_pretrained(self.spec.model.path).save_pretrained(directory / MODEL)
        follow_umask(directory / MODEL)
        if adapter:
            write_adapter(directory / ADAPTER, self.spec.lora, self.spec.model.path, adapter)
            write_json(directory / ADAPTER / MERGING, {"surviving_share": rounding.surviving_share})
            follow_umask(directory / ADAPTER)

    def _gather(self, weights: dict[str, ServedWeight], rounding: Rounding) -> dict[str, torch.Tensor]:
        """Copies on the CPU, of rank 0 alone."""
        found = {}
        for name, weight in weights.items():
            with self.engine.gathered(weight.parameters):
                if self.ranks.leads:
                    found[name] = weight.value(rounding).cpu().clone()
        return found

    def load(self) -> Manifest | None:
        """Resume from the marker; None when there is none. Raises CheckpointError where this run cannot continue it."""
        latest = read_latest(self.run_dir)
        if latest is None:
            return None
        directory, manifest = latest
        wanted = {
            "world_size": self.ranks.world_size,
            "zero_stage": self.engine.zero_stage,
            "dtype": self.spec.model.dtype,
        }
        for name, value in wanted.items():
            if getattr(manifest, name) != value:
                raise CheckpointError(
                    f"checkpoint {directory.name} was written with {name} {getattr(manifest, name)}, this learner has "
                    f"{value}; start it as the checkpoint was written"
                )
        self.engine.deepspeed.load_checkpoint(str(directory), tag=_SHARDS, load_lr_scheduler_states=False)
        if self.value is not None:
            self.value.deepspeed.load_checkpoint(str(directory), tag=_VALUE, load_lr_scheduler_states=False)
        if self.reference is not None:
            self.reference.load_state_dict(torch.load(directory / _REFERENCE, map_location="cpu", weights_only=True))
        _set_rng_state(torch.load(directory / f"rng-rank{self.ranks.rank}.pt", weights_only=True))
        return manifest


def _rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_rng_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
