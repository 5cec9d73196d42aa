"""The training state on disk: whoever wrote which stretch, each value comes back, and only to its own model."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from torch import nn  # noqa: E402

from dapo.records.checkpoints import Checkpoint, CheckpointError, Manifest  # noqa: E402
from services.learner import state as module  # noqa: E402
from services.learner.checkpoint import CheckpointStore  # noqa: E402
from services.learner.state import own_state, read_state, write_state  # noqa: E402
from services.learner.step.fragments import Fragment, held_fragments  # noqa: E402
from tests.support.spec import spec  # noqa: E402


def network(width: int = 5, seed: int = 0) -> nn.Module:
    """A matrix, a bias, a scalar, a frozen part, and one parameter that never gets a gradient."""
    torch.manual_seed(seed)
    model = nn.Linear(width, 3)
    model.scale = nn.Parameter(torch.rand(()))
    model.frozen = nn.Parameter(torch.rand(4), requires_grad=False)
    model.unused = nn.Parameter(torch.rand(2))
    return model


def engine(model: nn.Module, rank: int = 0, world_size: int = 1) -> Any:
    """As a LearnerEngine without ZeRO."""
    adamw = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.1)
    ranks = SimpleNamespace(rank=rank, world_size=world_size, leads=rank == 0)
    return SimpleNamespace(module=model, adamw=adamw, zero_stage=0, optimizer=adamw, ranks=ranks)


def trained(updates: int) -> Any:
    found = engine(network())
    for number in range(updates):
        inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        found.module(inputs).square().mul(found.module.scale).sum().backward()
        found.adamw.step()
        found.adamw.zero_grad()
    return found


def state_of(one: Any) -> dict[str, dict[str, Any]]:
    """By parameter and name, as lists."""
    states = {part.name: part.state(one.adamw) for part in held_fragments(one)}
    return {name: {key: value.tolist() for key, value in state.items()} for name, state in states.items()}


def write(folder: Path, source: Any, ranks: int) -> None:
    for rank in range(ranks):
        source.ranks = SimpleNamespace(rank=rank, world_size=ranks)
        write_state(folder, rank, own_state(source))


@given(ranks=st.integers(1, 6), updates=st.integers(0, 3), file_bytes=st.sampled_from([1, 40, 2**30]))
def test_any_number_of_ranks_writes_each_value_once(ranks: int, updates: int, file_bytes: int) -> None:
    source = trained(updates)
    wanted = state_of(source)
    lengths = [len(wanted[name]) for name in ("weight", "bias", "scale", "unused")]
    assert lengths == ([4, 4, 4, 1] if updates else [1, 1, 1, 1])
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FILE_BYTES", file_bytes)
        write(Path(name), source, ranks)
        reader = engine(network(seed=1))
        read_state(Path(name), reader)
        assert state_of(reader) == wanted
        # Also over what was trained there before.
        other = trained(3)
        read_state(Path(name), other)
        assert state_of(other) == wanted


@given(ranks=st.integers(1, 6), cuts=st.lists(st.integers(0, 15), max_size=4))
def test_any_stretch_can_be_read(ranks: int, cuts: list[int]) -> None:
    """The matrix, cut elsewhere, into a flat tensor that begins with something else."""
    source = trained(2)
    wanted = state_of(source)["weight"]
    holder = nn.Parameter(torch.zeros(20))
    adamw = torch.optim.AdamW([holder])
    with tempfile.TemporaryDirectory() as name, ExitStack() as files:
        write(Path(name), source, ranks)
        written = module._Written.read(Path(name), files)
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 15], strict=True):
            if end > start:
                one = Fragment("weight", 15, start, end - start, holder, 3 + start)
                one.restore(adamw, written.state(one))
    kept = {"fp32": holder.detach(), **adamw.state[holder]}
    for key in ("fp32", "exp_avg", "exp_avg_sq"):
        assert kept[key].tolist() == [0.0] * 3 + wanted[key] + [0.0] * 2
    assert float(kept["step"]) == wanted["step"] == 2


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path, trained(1), 2)
    with pytest.raises(CheckpointError, match=r"it has 15 values of the trained parameter weight, this run.* has 18"):
        read_state(tmp_path, engine(network(width=6)))
    more = network()
    more.further = nn.Parameter(torch.zeros(7))
    with pytest.raises(CheckpointError, match=r"it has 0 values of the trained parameter further, this run.* has 7"):
        read_state(tmp_path, engine(more))
    fewer = network()
    fewer.bias.requires_grad = False
    with pytest.raises(CheckpointError, match=r"it has 3 values of the trained parameter bias, this run.* has 0"):
        read_state(tmp_path, engine(fewer))


@pytest.mark.parametrize(
    ("dtype", "folder", "words"),
    [
        ("bfloat16", "policy", "was written with model.dtype bfloat16, this learner has float32"),
        ("float32", "shards", "in the form of an older release of dapo; go on with that release, or start a new run"),
    ],
)
def test_a_checkpoint_that_cannot_be_continued_says_why(tmp_path: Path, dtype: str, folder: str, words: str) -> None:
    directory = tmp_path / "checkpoints" / "step-000001.e1"
    (directory / folder).mkdir(parents=True)
    reader = engine(network())
    trainer: Any = SimpleNamespace(engine=reader, value=None, ranks=reader.ranks, preparation=SimpleNamespace())
    store = CheckpointStore(tmp_path, spec(model__dtype="float32"), trainer)
    manifest = Manifest(step=1, incarnation=1, seed=0, world_size=1, zero_stage=0, dtype=dtype, files={})
    with pytest.raises(CheckpointError, match=f"checkpoint step-000001.e1 .*{words}"):
        store.load(Checkpoint(directory, manifest))
