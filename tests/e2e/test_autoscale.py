"""A run on simulated engines scales its generators as the share of informative prompts falls and rises again, also
under the service that takes it over. All else is real."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.survival.platform import SIMULATED
from benchmarks.survival.runs import simulated
from dapo.client import RefusedRequest, RunClient
from tests.support.orchestrator.run_service import TOKEN, Service
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)

_LONG_S = 240.0
"""On a machine that is busy."""
# A generator makes 3200 tokens a second, of which a step at keep rate 1 needs some 250.
ENGINES = json.dumps({"step_s": 0.02, "mean_tokens": 8, "sigma": 0.1, "max_running": 64})


def scales_itself(toy: Path, folder: Path) -> dict[str, Any]:
    share = folder / "share"
    prompts = [json.loads(line)["prompt"] for line in (toy / "train.jsonl").read_text().splitlines()]
    rows = [{"prompt": prompt, "answer": f"{share}#{number}"} for number, prompt in enumerate(prompts)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return simulated(
        toy,
        100_000,
        data={"path": str(folder / "data.jsonl")},
        sampling={"max_response_tokens": 32},
        reward={"grader": "python:tests.support.simulator.grading:some", "overlong_buffer_tokens": 8},
        resources={
            "generator": {"replicas": 1, "autoscale": {"max": 2, "window_steps": 3}},
            "verifier": {"replicas": 1},
        },
    )


def serve(folder: Path) -> Service:
    return Service(folder, module=SIMULATED, SIMULATOR_OPTIONS=ENGINES)


def scaled(client: RunClient, run_id: str) -> list[dict[str, Any]]:
    return [event.data for event in client.events(run_id, follow=False) if event.kind == "scaled"]


@pytest.mark.slow
def test_the_keep_rate_makes_it_grow_and_then_shrink_under_another_service(toy: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.write_text("0.06")
    service = serve(tmp_path)
    try:
        with RunClient(str(service.http.base_url), TOKEN) as client:
            run_id = client.create(scales_itself(toy, tmp_path))["id"]
            until(lambda: client.get(run_id)["step"], lambda step: step > 0, _LONG_S)
            until(lambda: scaled(client, run_id), lambda found: found and found[-1]["after"] == 2, _LONG_S)
            grown = scaled(client, run_id)
            assert all(one["by"] == "autoscale" and one["role"] == "generator" for one in grown)
            assert all(one["after"] > one["before"] for one in grown)
            assert "generators keep up with the learner, which waited" in grown[0]["reason"]
            with pytest.raises(
                RefusedRequest, match=r"(?s)generators: the run scales itself between 1 and 2"
            ) as refused:
                client.update(run_id, generators=1)
            assert refused.value.status == 409
            demand = client.pipeline(run_id)["demand"]
            assert demand is not None
            assert demand["running"] == 2
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        share.write_text("1")
        service = serve(tmp_path)
        with RunClient(str(service.http.base_url), TOKEN) as client:
            until(lambda: scaled(client, run_id), lambda found: found and found[-1]["after"] == 1, _LONG_S)
            after = scaled(client, run_id)
            assert after[: len(grown)] == grown
            assert after[len(grown)]["before"] == 2, "the one that took over knew the number"
            client.stop(run_id)
    finally:
        service.close()
