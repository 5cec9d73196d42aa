"""Agents as processes, whose workers are scripts: they beat on the bus as real ones do."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dapo.spec.workloads import MODULES, Role, Workload
from tests.support.paths import REPO

SCRIPTED = "SCRIPTED_MODULES"
"""Environment variable of an agent: a JSON object of what it starts as workers, by role."""
BEATING = """
import asyncio, os, sys
from dapo.bus import BusError
from dapo.worker import run_worker
async def work(environment):
    bus = await environment.connect()
    print("up", os.getpid(), flush=True)
    with open(environment.run_dir / f"{environment.worker_id}.pids", "a") as file: file.write(f"{os.getpid()}\\n")
    while True:
        await bus.registry.beat("verifier", environment.worker_id, 5.0)
        await asyncio.sleep(0.1)
sys.exit(run_worker("verifier", work, (BusError,)))
"""
FAILING = "import sys; print('model.path /none: holds no config.json'); sys.exit(3)"
_START = f"""
import json, os, sys
from dapo.spec import workloads
workloads.MODULES.update(json.loads(os.environ["{SCRIPTED}"]))
from services.agent import __main__ as agent
sys.exit(agent.main())
"""


def scripted(folder: Path, role: Role, source: str, replicas: int = 1, fewest: int | None = None) -> Workload:
    """A workload whose workers are the script; agents that `agents` starts on the same folder run it."""
    (folder / f"scripted_{role}.py").write_text(source)
    return Workload(role, role, replicas, f"scripted_{role}", {}, fewest=fewest)


@contextmanager
def agents(folder: Path, url: str, *roles: Role) -> Iterator[list[subprocess.Popen[bytes]]]:
    """An agent for each role, with `folder` as the one that it shares. They are killed in the end."""
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    environment |= {
        "PYTHONPATH": f"{folder}:{REPO}",
        "REDIS_URL": url,
        SCRIPTED: json.dumps({role: f"scripted_{role}" for role in MODULES}),
    }
    command = [sys.executable, "-c", _START, "--work-dir", str(folder), "--gpus", "none"]
    with (folder / "agents.log").open("ab") as log:
        started = [
            subprocess.Popen([*command, "--role", role], env=environment, stdout=log, stderr=log) for role in roles
        ]
    try:
        yield started
    finally:
        for agent in started:
            agent.send_signal(signal.SIGCONT)
            agent.terminate()
        for agent in started:
            try:
                agent.wait(30)
            except subprocess.TimeoutExpired:
                agent.kill()
