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

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from transformers import AutoTokenizer

from dapo.bus.parts.decisions import Frontier
from dapo.host.files import follow_umask, sync, write_json
from dapo.host.memory import free_bytes
from dapo.host.storage import StorageError, in_words, storage_error
from dapo.records import checkpoints
from dapo.records.checkpoints import Checkpoint, CheckpointError, Manifest
from dapo.records.evaluations import best_step, read_evaluations
from dapo.records.folder import RunFolder
from dapo.spec import RunSpec
from services.learner.distributed import min_ints, sum_named
from services.learner.model.lora import Rounding, ServedWeight, write_adapter
from services.learner.state import own_state, read_state, write_state
from services.learner.step.engine import LearnerEngine
from services.learner.step.trainer import Trainer

MODEL = "hf"
ADAPTER = "adapter"
MERGING = "merging.json"
"""Beside the adapter: how much of it is left in the merged model (Rounding)."""
_POLICY = "policy"
_VALUE = "value"
_REFERENCE = "reference.pt"
_FREE_SHARE = 0.5
"""Of the host's free memory that copies of the training state may take; the next batch needs some, too."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What one rank has to write of a checkpoint. With `beside` all of it is a copy in the host's memory, which can be
    written while the next batch is trained; otherwise it is the training state itself."""

    step: int
    epoch: int
    frontier: Frontier | None
    directory: Path
    beside: bool
    states: dict[str, dict[str, torch.Tensor]]
    """By network, and of the reference model where it is written."""
    rng: dict[str, torch.Tensor]
    model: dict[str, torch.Tensor]
    """As it is served; like the adapter on rank 0 alone."""
    adapter: dict[str, torch.Tensor]
    surviving_share: float


class CheckpointStore:
    """Writes and reads the checkpoints of one run in RUN_DIR/checkpoints.

    Four steps make one: all ranks call `draft` together, then each calls `write`, beside the training where the draft
    allows it; once all have written, rank 0 calls `complete` and `mark`, which makes it count, and `prune`. A crash at
    any moment leaves the marked checkpoints whole: what has no marker does not exist. A directory is written once, by
    the epoch that made it. Everything of it survives a restart. All ranks `load` it together: any number of them at any
    ZeRO stage, with the same dtype; random states of ranks that did not write it are derived (`_derived_seed`).
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

    def draft(self, step: int, epoch: int, frontier: Frontier | None) -> Draft:
        """All ranks together: a new directory, and what each has to write into it. Rank 0 gives the data's frontier.
        Raises StorageError."""
        directory = self.root / checkpoints.directory_name(step, epoch)
        with self._in_words(step):
            if self.ranks.leads:
                # It must not be there: nobody writes into what another process has made.
                directory.mkdir(parents=True)
                for name, _ in self._networks():
                    (directory / name).mkdir()
        dist.barrier()
        rounding = Rounding()
        model = self._gather(self.engine.module.served_weights(), rounding)
        adapter = self._gather(self.engine.module.adapter_weights(), rounding)
        states = {name: own_state(engine) for name, engine in self._networks()}
        if self.reference is not None and self.ranks.leads:
            states[_REFERENCE] = self.reference.state_dict()
        beside = self.spec.checkpoint.async_save and self._fits(states)
        if beside:
            states = {name: copied(state) for name, state in states.items()}
        return Draft(
            *(step, epoch, frontier, directory, beside, states, _rng_state(self.ranks.device)),
            *(model, adapter, rounding.surviving_share),
        )

    def _fits(self, states: dict[str, dict[str, torch.Tensor]]) -> bool:
        """All ranks together: whether they, if all are on this host, have room for copies of their states, beside the
        model that was gathered before."""
        own = sum(tensor.nbytes for state in states.values() for tensor in state.values())
        needed = sum_named({"bytes": float(own)})["bytes"]
        (free,) = min_ints([free_bytes()])
        return needed <= _FREE_SHARE * free

    def write(self, draft: Draft) -> None:
        """This rank's files, on the disk when this returns. It asks nothing of the other ranks. Raises StorageError."""
        directory = draft.directory
        with self._in_words(draft.step):
            for name, state in draft.states.items():
                if name == _REFERENCE:
                    torch.save(state, directory / _REFERENCE)
                    sync(directory / _REFERENCE)
                else:
                    write_state(directory / name, self.ranks.rank, state)
            torch.save(draft.rng, self._rng_path(directory))
            sync(self._rng_path(directory))
            if self.ranks.leads:
                self._write_model(draft)

    def complete(self, draft: Draft) -> None:
        """Rank 0 only, once all ranks have written: everything but the marker is on the disk when this returns. Raises
        StorageError."""
        with self._in_words(draft.step):
            manifest = Manifest(
                step=draft.step,
                incarnation=draft.epoch,
                seed=self.spec.seed,
                world_size=self.ranks.world_size,
                zero_stage=self.engine.zero_stage,
                dtype=self.spec.model.dtype,
                files=checkpoints.file_sizes(draft.directory),
                frontier=None if draft.frontier is None else draft.frontier._asdict(),
            )
            checkpoints.write_manifest(draft.directory, manifest)

    @contextmanager
    def _in_words(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own
            refused = storage_error(error, self.root)
            if refused is None:
                raise
            raise StorageError(f"the checkpoint of step {step} cannot be written: {in_words(refused)}") from error

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

    def _write_model(self, draft: Draft) -> None:
        """A Hugging Face directory, and with LoRA the adapter, too."""
        directory = draft.directory
        self.engine.module.causal.save_pretrained(directory / MODEL, state_dict=draft.model)
        AutoTokenizer.from_pretrained(self.spec.model.path).save_pretrained(directory / MODEL)
        follow_umask(directory / MODEL)
        if draft.adapter:
            write_adapter(directory / ADAPTER, self.spec.lora, self.spec.model.path, draft.adapter)
            write_json(directory / ADAPTER / MERGING, {"surviving_share": draft.surviving_share})
            follow_umask(directory / ADAPTER)
        for folder in (MODEL, ADAPTER):
            for path in (directory / folder).rglob("*"):
                sync(path)

    def _gather(self, weights: dict[str, ServedWeight], rounding: Rounding) -> dict[str, torch.Tensor]:
        """Copies on the CPU, of rank 0 alone, gathered one by one."""
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
            _set_rng_state(torch.load(self._rng_path(directory), weights_only=True), self.ranks.device)
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


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the host's memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
