"""What a checkpoint is made of, and how all ranks write and read it together.

    checkpoints/step-000020.e3/policy/…      the policy's fp32 weights and optimizer state (services/learner/state.py)
    checkpoints/step-000020.e3/value/…       the same of the value network, where there is one
    checkpoints/step-000020.e3/reference.pt  the reference model, where it is refreshed
    checkpoints/step-000020.e3/rng-rank0.pt  random states, one file a rank
    checkpoints/step-000020.e3/hf/…          the model in Hugging Face format, LoRA merged
    checkpoints/step-000020.e3/adapter/…     the LoRA adapter in PEFT's format, where there is one

Names, manifest and marker are those of dapo/records/checkpoints.py. DeepSpeed's own form is not used: it can only be
read by as many ranks and at the stage that wrote it, and the one it can be converted to knows no stage 0.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from transformers import AutoTokenizer

from dapo.bus.parts.decisions import Frontier
from dapo.host.files import follow_umask, write_json
from dapo.host.storage import StorageError, in_words, storage_error
from dapo.records import checkpoints
from dapo.records.checkpoints import Checkpoint, CheckpointError, Manifest
from dapo.records.evaluations import best_step, read_evaluations
from dapo.records.folder import RunFolder
from dapo.spec import RunSpec
from services.learner.model.lora import Rounding, ServedWeight, write_adapter
from services.learner.state import read_state, write_state
from services.learner.step.engine import LearnerEngine
from services.learner.step.trainer import Trainer

MODEL = "hf"
ADAPTER = "adapter"
MERGING = "merging.json"
"""Beside the adapter: how much of it is left in the merged model (Rounding)."""
_POLICY = "policy"
_VALUE = "value"
_REFERENCE = "reference.pt"


class CheckpointStore:
    """Writes and reads the checkpoints of one run in RUN_DIR/checkpoints.

    All ranks call `write` and `load` together; rank 0 alone calls `mark`, which makes a written checkpoint count, and
    `prune`. A crash at any moment leaves the marked checkpoints whole: what has no marker does not exist. A directory
    is written once, by the epoch that made it. Everything of it survives a restart. It is read back with any number of
    ranks and any ZeRO stage, and with the same dtype; random states of ranks that did not write it are derived
    (`_derived_seed`).
    """

    def __init__(self, run_dir: Path, spec: RunSpec, trainer: Trainer) -> None:
        self.run_dir = run_dir
        self.root = RunFolder(run_dir).checkpoints
        self.kept: list[str] = []
        """Names of the checkpoints that count, the newest first."""
        self.spec = spec
        self.engine = trainer.engine
        self.value = trainer.value
        # One that is never refreshed is read from model.path.
        refreshed = spec.algorithm.reference_refresh_steps is not None
        self.reference = trainer.preparation.reference if refreshed else None
        self.ranks = trainer.ranks

    @property
    def covered_step(self) -> int:
        """Up to here the batch log may forget: the step of the checkpoint before the newest, so that this one can be
        taken where the newest is damaged (0: the base model); with `checkpoint.keep_last` 1 that of the newest."""
        place = min(2, self.spec.checkpoint.keep_last)
        return checkpoints.step_and_epoch(self.kept[place - 1])[0] if len(self.kept) >= place else 0

    def write(self, step: int, epoch: int, frontier: Frontier | None) -> Path:
        """Everything but the marker, on disk when this returns on rank 0, which gives the data's frontier. Raises
        StorageError."""
        directory = self.root / checkpoints.directory_name(step, epoch)
        try:
            self._write(directory, step, epoch, frontier)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own
            refused = storage_error(error, self.root)
            if refused is None:
                raise
            raise StorageError(f"the checkpoint of step {step} cannot be written: {in_words(refused)}") from error
        return directory

    def _write(self, directory: Path, step: int, epoch: int, frontier: Frontier | None) -> None:
        if self.ranks.leads:
            # It must not be there: nobody writes into what another process has made.
            directory.mkdir(parents=True)
            for name, _ in self._networks():
                (directory / name).mkdir()
        dist.barrier()
        for name, engine in self._networks():
            write_state(directory / name, engine)
        if self.reference is not None and self.ranks.leads:
            torch.save(self.reference.state_dict(), directory / _REFERENCE)
        torch.save(_rng_state(), self._rng_path(directory))
        self._write_model(directory)
        dist.barrier()
        if self.ranks.leads:
            manifest = Manifest(
                step=step,
                incarnation=epoch,
                seed=self.spec.seed,
                world_size=self.ranks.world_size,
                zero_stage=self.engine.zero_stage,
                dtype=self.spec.model.dtype,
                files=checkpoints.file_sizes(directory),
                frontier=None if frontier is None else frontier._asdict(),
            )
            checkpoints.write_manifest(directory, manifest)

    def mark(self, directory: Path, epoch: int) -> None:
        """Make `directory` the newest checkpoint that counts, beside those that `checkpoint` says to keep.

        Rank 0 only, and only while it holds the learner's newest epoch.
        """
        keep = self.spec.checkpoint
        names = [directory.name, *self.kept]
        best = None
        if keep.keep_best is not None:
            steps = [checkpoints.step_and_epoch(name)[0] for name in names]
            best = best_step(read_evaluations(self.run_dir), keep.keep_best, steps)
        self.kept = checkpoints.retained(names, last=keep.keep_last, every_steps=keep.keep_every_steps, best_step=best)
        checkpoints.mark(self.root, epoch, self.kept)

    def prune(self, epoch: int) -> None:
        """Delete the others. Rank 0 only, and only while it holds the learner's newest epoch, `epoch`."""
        checkpoints.prune(self.root, epoch, self.kept)

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

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from it; the older ones stay. Raises CheckpointError where this run cannot continue it."""
        directory, manifest = checkpoint
        if manifest.dtype != self.spec.model.dtype:
            raise CheckpointError(
                f"checkpoint {directory.name} was written with model.dtype {manifest.dtype}, this learner has "
                f"{self.spec.model.dtype}; start it as the checkpoint was written"
            )
        if not (directory / _POLICY).is_dir():
            raise CheckpointError(
                f"checkpoint {directory.name} holds the optimizer's state in the form of an older release of dapo; go "
                f"on with that release, or start a new run from the model in {directory / MODEL}"
            )
        for name, engine in self._networks():
            read_state(directory / name, engine)
        if self.reference is not None:
            self.reference.load_state_dict(torch.load(directory / _REFERENCE, map_location="cpu", weights_only=True))
        if self.ranks.rank < manifest.world_size:
            _set_rng_state(torch.load(self._rng_path(directory), weights_only=True))
        else:
            torch.manual_seed(_derived_seed(manifest.seed, manifest.step, self.ranks.rank))
        marked = [path.name for path in checkpoints.list_marked(self.root)]
        self.kept = marked[marked.index(directory.name) :]

    def _networks(self) -> list[tuple[str, LearnerEngine[Any]]]:
        """By the names of their folders."""
        return [(_POLICY, self.engine)] + ([(_VALUE, self.value)] if self.value is not None else [])

    def _rng_path(self, directory: Path) -> Path:
        return directory / f"rng-rank{self.ranks.rank}.pt"


def _derived_seed(seed: int, step: int, rank: int) -> int:
    """Of a rank that the checkpoint has no random states of: a number of 64 bits that only depends on these three, by
    NumPy's SeedSequence."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def _rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_rng_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
