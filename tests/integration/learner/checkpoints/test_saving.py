"""A checkpoint is written while the next batches train; it counts once it is whole, or not at all."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from dapo.bus import Bus
from dapo.bus.keys import LEARNER_STEP
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.host.ports import free_port
from dapo.records.checkpoints import list_marked
from tests.support.learner.processes import newest, play, start_ranks, until
from tests.support.models import save_model
from tests.support.paths import REPO

WAIT_S = 240


def play_scene(scene: str, url: str, run_dir: Path, ranks: int = 1, exit_code: int = 0) -> None:
    """See tests/support/learner/saving_rank.py."""
    save_model(run_dir / "model", 0)
    port = str(free_port())
    command = [sys.executable, "-m", "tests.support.learner.saving_rank", scene, url, str(run_dir)]
    processes = []
    for rank in range(ranks):
        environment = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO),
        }  # fmt: skip
        with (run_dir / f"rank-{rank}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, cwd=REPO, stdout=log, stderr=log))
    try:
        codes = [process.wait(WAIT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [exit_code] * ranks, [(run_dir / f"rank-{rank}.log").read_text()[-3000:] for rank in range(ranks)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [1, 2])
def test_it_holds_its_own_step_and_counts_once_the_last_rank_has_written(
    valkey: EmbeddedValkey, tmp_path: Path, ranks: int
) -> None:
    play_scene("beside", valkey.url, tmp_path, ranks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [1, 2])
def test_who_waits_for_it_shows_that_its_files_grow(valkey: EmbeddedValkey, tmp_path: Path, ranks: int) -> None:
    play_scene("watched", valkey.url, tmp_path, ranks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_disk_that_refuses_one_rank_is_told_by_all(valkey: EmbeddedValkey, tmp_path: Path, ranks: int) -> None:
    play_scene("full", valkey.url, tmp_path, ranks)


@pytest.mark.timeout(300)
def test_a_learner_that_was_replaced_while_it_writes_says_so(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    play_scene("replaced", valkey.url, tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("scene", "exit_code"), [("killed", -signal.SIGKILL), ("stopped", 128 + signal.SIGTERM)])
def test_one_that_was_cut_off_does_not_count_and_is_made_again(
    valkey: EmbeddedValkey, tmp_path: Path, scene: str, exit_code: int
) -> None:
    play_scene(scene, valkey.url, tmp_path, exit_code=exit_code)
    root = tmp_path / "checkpoints"
    torso = root / "step-000002.e1"
    assert [path.name for path in list_marked(root)] == ["step-000001.e1"]
    assert len(list(torso.glob("policy/*"))) == (3 if scene == "killed" else 0)

    loading = set()

    async def goes_on(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        async def reached() -> bool:
            sign = await bus.registry.find(LEARNER_STEP)
            if sign is not None and sign.startswith("loading: "):
                loading.add(sign)
            latest = newest(tmp_path)
            return latest is not None and latest.manifest.step == 3 and not torso.exists()

        processes += await start_ranks(valkey.url, tmp_path, ranks=1)
        await until(reached, processes)

    play(valkey.url, goes_on)
    assert len(loading) > 1
    assert "goes on behind step 1;" in (tmp_path / "learner-0.log").read_text()
    assert [path.name for path in list_marked(root)] == ["step-000003.e2", "step-000002.e2"]
