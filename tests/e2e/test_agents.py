"""A run whose workers are with agents: it waits for them, grows into new ones, survives their end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.survival.runs import simulated
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.client import RunClient
from dapo.records.folder import RunFolder
from dapo.spec.load import load_spec
from tests.support.orchestrator.run_service import TOKEN, Service, base_env
from tests.support.paths import REPO
from tests.support.waiting import until

_LONG_S = 240.0
ENGINES = {"SIMULATOR_OPTIONS": json.dumps({"step_s": 0.02, "mean_tokens": 8, "sigma": 0.1, "max_running": 64})}
SIMULATED, REAL = "tests.support.simulator", "services"


def serve(folder: Path, url: str, module: str, name: str = "service") -> Service:
    return Service(folder, "--launcher", "attached", name=name, module=module, REDIS_URL=url, **ENGINES)


@contextmanager
def agents(folder: Path, url: str, module: str, *roles: str) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", module, "--work-dir", str(folder), "--gpus", "none", "--role"]
    with (folder / "agents.log").open("ab") as log:
        started = [
            subprocess.Popen([*command, role], env=base_env(REDIS_URL=url, **ENGINES), cwd=REPO, stdout=log, stderr=log)
            for role in roles
        ]
    try:
        yield started
    finally:
        for agent in started:
            agent.terminate()
        for agent in started:
            try:
                agent.wait(30)
            finally:
                agent.kill()


def events(client: RunClient, run_id: str, kind: str) -> list[dict[str, Any]]:
    return [event.data for event in client.events(run_id, follow=False) if event.kind == kind]


def workers_of(agent: subprocess.Popen[bytes]) -> list[int]:
    """Child processes of an agent."""
    return [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]


@pytest.mark.timeout(600)
def test_a_run_waits_for_agents_grows_and_goes_on_whatever_dies(toy: Path, tmp_path: Path) -> None:
    resources = {"generator": {"replicas": 1, "max_replicas": 2}, "verifier": {"replicas": 1}}
    spec = simulated(toy, 100_000, resources=resources)
    with EmbeddedValkey(tmp_path / "valkey", memory_mib=512) as server, ExitStack() as stack:
        url, agent = server.url, f"{SIMULATED}.agent"
        service = serve(tmp_path, url, f"{SIMULATED}.service")
        try:
            with RunClient(str(service.http.base_url), TOKEN) as client:
                run_id = client.create(spec)["id"]
                until(lambda: client.get(run_id), _lacks_generator_and_learner, 30)
                roles = ("generator", "verifier", "learner")
                staying = stack.enter_context(agents(tmp_path, url, agent, *roles))
                until(lambda: client.get(run_id)["step"], lambda step: step > 1, _LONG_S)
            before = [workers_of(one) for one in staying]
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
            service = serve(tmp_path, url, f"{SIMULATED}.service", name="second")
            with RunClient(str(service.http.base_url), TOKEN) as client:
                until(lambda: events(client, run_id, "alert"), _adopted, 60)
                step = client.get(run_id)["step"]
                until(lambda: client.get(run_id)["step"], lambda now: now > step + 1, _LONG_S)
                assert [workers_of(one) for one in staying] == before, "the workers went on"
                with agents(tmp_path, url, agent, "generator") as (coming,):
                    until(lambda: events(client, run_id, "scaled"), bool, 60)
                    until(lambda: client.pipeline(run_id)["generators"], lambda found: _ready(found) == 2, _LONG_S)
                    os.kill(coming.pid, signal.SIGKILL)
                    until(lambda: events(client, run_id, "scaled"), lambda found: len(found) == 2, 60)
                grown, shrunk = events(client, run_id, "scaled")
                assert (grown["before"], grown["after"], grown["by"]) == (1, 2, "agents")
                assert (shrunk["before"], shrunk["after"], shrunk["by"]) == (2, 1, "agents")
                step = client.get(run_id)["step"]
                until(lambda: client.get(run_id)["step"], lambda now: now > step + 1, _LONG_S)
                assert client.stop(run_id)["state"] == "stopped"
                until(lambda: [one for one in staying if workers_of(one)], lambda found: not found, 30)
        finally:
            service.close()


def _lacks_generator_and_learner(run: dict[str, Any]) -> bool:
    assert run["state"] == "queued"
    return all(f"1 more {role} agent" in run["message"] for role in ("generator", "learner"))


def _adopted(found: Sequence[dict[str, Any]]) -> bool:
    return any(one.get("kind") == "adopted" for one in found)


def _ready(generators: Sequence[dict[str, Any]]) -> int:
    return sum(one["state"] not in ("starting", "stopped") for one in generators)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sglang_and_deepspeed_train_under_agents(toy: Path, tmp_path: Path) -> None:
    """Four agents, every engine real, from the request to the checkpoint."""
    overrides = [
        f"model.path={toy / 'model'}",
        f"data.path={toy / 'train.jsonl'}",
        "training.steps=3",
        "training.prompts_per_step=16",
        "resources.generator.replicas=2",
    ]
    spec = load_spec(REPO / "examples" / "reverse.yaml", overrides).model_dump(mode="json")
    with EmbeddedValkey(tmp_path / "valkey", memory_mib=1024) as server:
        service = serve(tmp_path, server.url, "services.orchestrator")
        try:
            roles = ("generator", "generator", "verifier", "learner")
            with agents(tmp_path, server.url, "services.agent", *roles), _client(service) as client:
                run = client.create(spec)
                ended = until(lambda: client.get(run["id"]), lambda found: found["state"] in ENDED, 600)
                assert (ended["state"], ended["step"]) == ("succeeded", 3), ended["message"]
                assert {one["role"] for one in events(client, run["id"], "service") if one.get("role")} == set(roles)
        finally:
            service.close()
    assert list(RunFolder(Path(run["run_dir"])).checkpoints.iterdir())


ENDED = ("succeeded", "failed", "stopped", "cancelled")


def _client(service: Service) -> RunClient:
    return RunClient(str(service.http.base_url), TOKEN)
