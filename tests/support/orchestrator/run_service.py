"""The run service as a process, and what its tests ask of it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from dapo.host.processes import family
from tests.support.paths import REPO

MODULE = "services.orchestrator"
TOKEN = "test-token"
METADATA = (("authorization", f"Bearer {TOKEN}"),)


def base_env(**extra: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DAPO_API_TOKEN")}
    return {**env, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **extra}


class Service:
    def __init__(
        self,
        folder: Path,
        *options: str,
        name: str = "service",
        token: str = TOKEN,
        tls: ssl.SSLContext | None = None,
        module: str = MODULE,
        **env: str,
    ) -> None:
        """Without `--policy` specs may name any path, any grader in Python and trackers on 127.0.0.1. `name` tells the
        services of one folder apart.

        Without `token` it wants none, or one of its folder's. `tls`: how a client checks it, where it has TLS."""
        self.folder = folder
        ready = folder / f"{name}.ready.json"
        ready.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            module,
            "--state-dir",
            str(folder),
            "--ready-file",
            str(ready),
            *options,
        ]
        if "--policy" not in options:
            policy = folder / "policy.yaml"
            policy.write_text("roots: [/]\npython_graders: ['*']\ntracking_hosts: [127.0.0.1]\n")
            command += ["--policy", str(policy)]
        secret = {"DAPO_API_TOKEN": token} if token else {}
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=base_env(**secret, **env), start_new_session=True
            )
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.ready = json.loads(ready.read_text())
        self.http = httpx.Client(
            base_url=f"{'https' if tls else 'http'}://127.0.0.1:{self.ready['port']}",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=tls or True,
            timeout=60,
            trust_env=False,
        )

    def family(self) -> list[int]:
        """All processes of the service but itself."""
        return [entry.pid for entry in family([self.process.pid]) if entry.pid != self.process.pid]

    def workers(self) -> list[int]:
        """As `family`, without its Valkey."""
        servers = {process.pid for process in processes(self, "valkey-server")}
        return [pid for pid in self.family() if pid not in servers]

    def close(self) -> None:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()


def create(service: Service, spec: dict) -> dict:
    response = service.http.post("/v1/runs", json={"spec": spec})
    assert response.status_code == 201, response.text
    return response.json()


def events(service: Service, run_id: str, after: str = "") -> list[tuple[str, str, dict]]:
    """All events until the run has ended."""
    found = []
    with service.http.stream("GET", f"/v1/runs/{run_id}/events", params={"after": after}, timeout=240) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        block: dict[str, str] = {}
        for line in response.iter_lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
            elif block:
                found.append((block["id"], block["event"], json.loads(block["data"])))
                block = {}
    return found


def processes(service: Service, name: str) -> list[psutil.Process]:
    found = (psutil.Process(pid) for pid in service.family())
    return [process for process in found if process.name() == name]


def wait_for(service: Service, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(service.family()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kind(response: httpx.Response) -> tuple[int, str]:
    """Status and kind of a refusal, which must be problem details (RFC 9457)."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert {"title", "detail", "instance"} <= problem.keys()
    return response.status_code, problem["type"].removeprefix("urn:dapo:problem:")
