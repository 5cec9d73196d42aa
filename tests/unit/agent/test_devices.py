"""An agent has its GPUs for itself, or says why not."""

from pathlib import Path

import pytest

from dapo.host import devices
from services.agent import __main__ as agent


@pytest.fixture(autouse=True)
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "count_gpus", lambda: 2)
    monkeypatch.setattr(agent, "driver_gpus", list)
    monkeypatch.setattr(agent, "lock_device", lambda identity: devices.lock_device(identity, tmp_path / "locks"))


def place(folder: Path, gpus: str) -> tuple[str, ...]:
    options = ["--role", "generator", "--redis-url", "redis://h", "--work-dir", str(folder), "--gpus", gpus]
    return tuple(agent._place(agent._arguments(options)).devices)


def test_a_gpu_is_with_one_agent_of_the_machine(tmp_path: Path) -> None:
    assert place(tmp_path, "0") == ("0",)
    with pytest.raises(agent.BadOption, match="another agent or a run of this machine has GPU 0"):
        place(tmp_path, "1,0")
    assert place(tmp_path, "none") == ()


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(agent.BadOption, match="this machine has no GPU 7; it has 2, counted from 0"):
        place(tmp_path, "7")
    monkeypatch.setattr(agent, "count_gpus", lambda: 0)
    with pytest.raises(agent.BadOption, match="it has none: leave --gpus out, or give none"):
        place(tmp_path, "0")
