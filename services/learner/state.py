"""The training state of one network on disk: fp32 weights and optimizer state, by parameter and not by rank.

    policy/rank00000-00000.safetensors    what rank 0 wrote, in files of about a GiB

Each tensor is a stretch of one flattened parameter, named STATE:START:PARAMETER as in `exp_avg:4096:head.weight`;
together the files of all ranks hold each value once. Every rank writes what it holds and reads what it will hold, so
nothing is gathered, and the number of ranks and the ZeRO stage may be others in between. Frozen parameters are those of
`model.path`.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dapo.host.files import sync
from dapo.records.checkpoints import CheckpointError
from services.learner.model.policy import TrainedModel
from services.learner.step.engine import LearnerEngine
from services.learner.step.fragments import WEIGHT, Fragment, held_fragments, spread

_FILE_BYTES = 2**30
"""Of one file: as much is copied to the host's memory at a time from a GPU."""
_PATTERN = "rank*.safetensors"


def own_state(engine: LearnerEngine[TrainedModel]) -> dict[str, Tensor]:
    """What this rank has to write of the network, by the names that it has on disk: views."""
    ranks = engine.ranks
    held = held_fragments(engine)
    if engine.zero_stage == 0:
        held = [part for one in held if (part := one.share(ranks.rank, ranks.world_size)).numel]
    return {f"{key}:{one.start}:{one.name}": value for one in held for key, value in one.state(engine.adamw).items()}


def write_state(directory: Path, rank: int, state: dict[str, Tensor]) -> None:
    """What `own_state` of a rank was, into `directory`, which is there: on the disk when this returns. Raises OSError,
    SafetensorError."""
    for number, tensors in enumerate(_cut(state)):
        path = directory / f"rank{rank:05d}-{number:05d}.safetensors"
        save_file(tensors, path)
        sync(path)


def _cut(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    filled = 0
    for name, tensor in state.items():
        if found and filled + tensor.nbytes > _FILE_BYTES:
            yield found
            found, filled = {}, 0
        found[name] = tensor
        filled += tensor.nbytes
    if found:
        yield found


@torch.no_grad()
def read_state(directory: Path, engine: LearnerEngine[TrainedModel]) -> None:
    """Put back what all ranks wrote there, bit for bit; all ranks call it together.

    Raises CheckpointError where it is the state of another network.
    """
    held = held_fragments(engine)
    for one in held:
        engine.adamw.state.pop(one.holder, None)
    with ExitStack() as files:
        written = _Written.read(directory, files)
        written.require(engine)
        for one in held:
            one.restore(engine.adamw, written.state(one))
    spread(engine, held)


@dataclass(frozen=True, slots=True)
class _Stretch:
    start: int
    values: Any
    """A slice of a file, not yet read."""
    numel: int


class _Written:
    """What is written, by parameter and name of the state; stretches in order."""

    def __init__(self) -> None:
        self.stretches: dict[str, dict[str, list[_Stretch]]] = defaultdict(lambda: defaultdict(list))
        self.counts: dict[str, dict[str, Tensor]] = defaultdict(dict)

    @classmethod
    def read(cls, directory: Path, files: ExitStack) -> "_Written":
        found = cls()
        for path in sorted(directory.glob(_PATTERN)):
            file = files.enter_context(safe_open(path, framework="pt"))
            for tensor in file.keys():  # noqa: SIM118
                key, start, name = tensor.split(":", 2)
                values = file.get_slice(tensor)
                if shape := values.get_shape():
                    found.stretches[name][key].append(_Stretch(int(start), values, shape[0]))
                else:
                    found.counts[name][key] = file.get_tensor(tensor)
        for states in found.stretches.values():
            for stretches in states.values():
                stretches.sort(key=lambda one: one.start)
        return found

    def require(self, engine: LearnerEngine[TrainedModel]) -> None:
        """Raises CheckpointError unless each trained parameter is there, in its size, and no other."""
        wanted = {
            name: int(getattr(one, "ds_numel", one.numel()))
            for name, one in engine.module.named_parameters()
            if one.requires_grad
        }
        found = {name: sum(one.numel for one in states[WEIGHT]) for name, states in self.stretches.items()}
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if wrong:
            name, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise CheckpointError(
                f"the checkpoint is of another model: it has {found.get(name, 0)} values of the trained parameter "
                f"{name}, this run's model has {wanted.get(name, 0)}{more}. Set model.path, lora and value as they were"
            )

    def state(self, fragment: Fragment) -> dict[str, Tensor]:
        found = dict(self.counts[fragment.name])
        for key, stretches in self.stretches[fragment.name].items():
            end = fragment.start + fragment.numel
            found[key] = torch.cat(
                [
                    one.values[max(0, fragment.start - one.start) : min(one.numel, end - one.start)]
                    for one in stretches
                    if one.start < end and fragment.start < one.start + one.numel
                ]
            )
        return found
