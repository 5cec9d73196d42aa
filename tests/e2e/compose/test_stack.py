"""docker-compose.yml on a real Docker Engine: the demo trains in containers, whatever is scaled and whatever dies.

`make test-compose`, after `make images`. The engine is the one that DOCKER_HOST names; all that is made is of a project
of its own. Grafana is left out: what its panels ask is asked of Prometheus here.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from dapo.client import RunClient
from dapo.host.ports import free_port
from tests.support.paths import REPO
from tests.support.waiting import until

TOKEN = "a-token-of-the-stack"
SERVICES = ("redis", "orchestrator", "generator", "verifier", "learner", "toy", "prometheus")
_UNUSED = re.compile(
    r"DCGM_|sglang:(cached_tokens|num_retracted)|evaluation_|value_|dual_clip|kl_reference|explained_variance|lora_|failures_total"
)
"""What this run has none of: GPUs, a prefix cache, evaluations, a critic, a reference, LoRA, failures."""

pytestmark = [
    pytest.mark.skipif("DAPO_TEST_COMPOSE" not in os.environ, reason="make test-compose runs it on a Docker Engine"),
    pytest.mark.timeout(1800),
]


class Stack:
    """The containers of one project."""

    def __init__(self, folder: Path) -> None:
        self.rest, self.prometheus = free_port(), free_port()
        settings = {
            "COMPOSE_PROFILES": "cpu,metrics",
            "DAPO_API_TOKEN": TOKEN,
            "REDIS_PASSWORD": "apassword",
            "GRAFANA_PASSWORD": "another",
            "REST_PORT": str(self.rest),
            "GRPC_PORT": str(free_port()),
            "PROMETHEUS_PORT": str(self.prometheus),
            "MODELS_DIR": str(folder),
        }
        env = folder / "env"
        env.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        compose = Path(sys.executable).with_name("docker-compose")
        self._command = [str(compose), "--project-directory", str(REPO), "--env-file", str(env), "-p", "dapo-test"]

    def compose(self, *arguments: str) -> str:
        """Its output. Raises CalledProcessError."""
        done = subprocess.run([*self._command, *arguments], check=True, capture_output=True, text=True, timeout=600)
        return done.stdout

    def up(self, generators: int) -> None:
        self.compose("up", "-d", "--no-build", "--scale", f"generator={generators}", *SERVICES)

    def kill(self, service: str) -> None:
        """As a crash would: by the engine it would be a stop, after which nothing is started again."""
        container = self.compose("ps", "-q", service).split()[0]
        found = subprocess.run(
            ["docker", "inspect", "-f", "{{.State.Pid}}", container], check=True, capture_output=True, text=True
        )
        os.kill(int(found.stdout), signal.SIGKILL)

    def ask(self, query: str) -> list[Mapping[str, Any]]:
        """Of Prometheus."""
        answer = httpx.get(
            f"http://127.0.0.1:{self.prometheus}/api/v1/query", params={"query": query}, trust_env=False, timeout=30
        )
        return answer.json()["data"]["result"]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    try:
        yield made
    finally:
        made.compose("--profile", "*", "down", "-v", "--timeout", "30")


def panel_queries(run_id: str) -> dict[str, str]:
    """By dashboard and panel."""
    found: dict[str, str] = {}
    for path in sorted((REPO / "deploy/grafana/dashboards").glob("*.json")):
        panels = json.loads(path.read_text())["panels"]
        for panel in [inner for one in panels for inner in (one, *one.get("panels", ()))]:
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$run", run_id).replace("$worker", ".*").replace("$grader", ".*")
                for name, value in (("$__rate_interval", "1m"), ("$__range", "10m"), ("$__interval", "15s")):
                    query = query.replace(name, value)
                found[f"{path.stem}: {panel['title']}: {target['refId']}"] = query
    return found


def test_the_demo_trains_grows_is_seen_and_survives(stack: Stack) -> None:
    stack.up(generators=1)
    with RunClient(f"http://127.0.0.1:{stack.rest}", TOKEN) as client:
        run = until(client.list, bool, 120)[0]["id"]

        def step() -> int:
            return int(client.get(run)["step"])

        until(step, lambda now: now >= 2, 240)
        stack.up(generators=3)
        serving = f'count(dapo_generator_serving{{run="{run}"}} == 1)'
        until(lambda: stack.ask(serving), lambda found: found and float(found[0]["value"][1]) == 3, 240)
        queries = {name: query for name, query in panel_queries(run).items() if not _UNUSED.search(query)}
        assert len(queries) > 130
        until(lambda: [name for name, query in queries.items() if not stack.ask(query)], lambda empty: not empty, 60)
        stack.kill("redis")
        stack.kill("generator")
        before = step()
        until(step, lambda now: now > before, 240)
        ended = until(lambda: client.get(run), lambda found: found["state"] == "succeeded", 900)
        assert ended["step"] == ended["steps_total"]
    exported = stack.compose("exec", "-T", "learner", "dapo", "export", f"runs/{run}", f"exports/{run}")
    assert "model of step 60" in exported
