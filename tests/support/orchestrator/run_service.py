"""The run service as a process, and what its tests ask of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from dapo.host.processes import family
from tests.support.paths import REPO

TOKEN = "test-token"
METADATA = (("authorization", f"Bearer {TOKEN}"),)


def base_env(**extra: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return {**env, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **extra}


class Service:
    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        ready = folder / "ready.json"
        ready.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "services.orchestrator",
            "--state-dir",
            str(folder),
            "--ready-file",
            str(ready),
        ]
        self.log = folder / "service.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=base_env(DAPO_API_TOKEN=TOKEN, **env), start_new_session=True
            )
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.ready = json.loads(ready.read_text())
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.ready['port']}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
            trust_env=False,
        )

    def family(self) -> list[int]:
        """All processes of the service but itself."""
        return [entry.pid for entry in family([self.process.pid]) if entry.pid != self.process.pid]

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
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
            else:
                found.append((block["id"], block["event"], json.loads(block["data"])))
    return found


def processes(service: Service, name: str) -> list[psutil.Process]:
    found = (psutil.Process(pid) for pid in service.family())
    return [process for process in found if process.name() == name]


def wait_for(service: Service, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(service.family()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
