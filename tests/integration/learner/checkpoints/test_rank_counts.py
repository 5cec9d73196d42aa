"""The learner as the launcher starts it, again and again with other numbers of ranks, beside one left alone."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from redis import Redis  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from dapo.bus import Bus  # noqa: E402
from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from tests.support.bus import make_kept, read_alerts  # noqa: E402
from tests.support.learner.processes import (  # noqa: E402
    GROUP_SIZE,
    exit_codes,
    make_batch,
    make_spec,
    newest,
    payload,
    payload_keys,
    play,
    start_ranks,
    until,
)
from tests.support.models import save_model  # noqa: E402

BATCHES = 7
Reports = list[pb.StepReport]


def run(url: str, run_dir: Path, lives: Sequence[tuple[int, int]]) -> tuple[Reports, list[dict[str, str]]]:
    """Reports and alerts of a run whose learner has so many ranks until so many steps are recorded, and is killed then;
    the last life is let to its end. A checkpoint every two steps."""
    save_model(run_dir / "model", 0)
    found: tuple[Reports, list[dict[str, str]]] = ([], [])

    async def scenario(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        spec = make_spec(run_dir / "model", ranks=lives[0][0], every_steps=2, keep_last=2)
        await bus.runs.create(spec.model_dump_json(), str(run_dir), "2026-01-01T00:00:00Z")
        epoch = await make_kept(bus, 2 * BATCHES, GROUP_SIZE)
        batches = [make_batch(bus, number) for number in range(BATCHES)]
        await bus.payloads.put(dict.fromkeys(payload_keys(batches), payload()))
        cut = 0
        for ranks, steps in lives:

            async def recorded(steps: int = steps) -> bool:
                return len(await bus.batches.read_steps("0", block_s=0)) == steps

            for batch in batches[cut:steps]:
                await bus.batches.cut(batch, epoch)
            cut = steps
            processes[:] = await start_ranks(url, run_dir, ranks=ranks)
            await until(recorded, processes)
            if steps < BATCHES:
                for process in processes:
                    process.kill()
                assert await exit_codes(processes) == [-signal.SIGKILL] * ranks
        await bus.batches.cut(pb.TrainBatch(batch=BATCHES, end=True), epoch)
        assert await exit_codes(processes) == [0] * lives[-1][0]
        found[0].extend(report for _, report in await bus.batches.read_steps("0", block_s=0))
        found[1].extend(await read_alerts(bus))

    with Redis.from_url(url) as client:
        client.flushall()
    play(url, scenario)
    return found


@pytest.mark.timeout(900)
def test_one_rank_then_two_then_one_with_the_log_replayed_in_between(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Killed behind steps 3 and 5, so that a checkpoint of step 2, then 4, is loaded and a step trained again."""
    alone, changing = tmp_path / "alone", tmp_path / "changing"
    for folder in (alone, changing):
        folder.mkdir()
    wanted, quiet = run(valkey.url, alone, [(1, BATCHES)])
    reports, alerts = run(valkey.url, changing, [(1, 3), (2, 5), (1, BATCHES)])

    assert quiet == []
    assert [report.batch for report in reports] == [report.batch for report in wanted] == list(range(BATCHES))
    assert [report.ranks for report in reports] == [1, 1, 1, 2, 2, 1, 1]
    for one, other in zip(reports, wanted, strict=True):
        for name in ("loss", "grad_norm"):
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-3, abs=1e-5), (one.batch, name)
    ends = [newest(folder) for folder in (alone, changing)]
    states = [load_file(end.directory / "hf" / "model.safetensors") for end in ends if end is not None]
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, rtol=1e-3, atol=1e-4, msg=name)

    log = (changing / "learner-0.log").read_text()
    assert "step-000002.e1 was written with ranks: 1, it goes on with ranks: 2" in log
    assert "step-000004.e2 was written with ranks: 2, it goes on with ranks: 1" in log
    for step in (2, 4):
        assert f"the checkpoint of step {step} holds the recorded parameters, bit for bit" in log
    again = [f"step {step}, trained again, gave " for step in (3, 5)]
    assert all(text in log for text in again)
    # Two ranks may round as one does; where they do not, the alert says why that is.
    for alert in alerts:
        assert alert["kind"] == "replay_differs"
        assert alert["message"].startswith(tuple(again))
        assert "The step was recorded with ranks: " in alert["message"]
