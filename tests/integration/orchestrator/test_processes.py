"""Launcher and supervisor with real processes."""

import asyncio
import os
import subprocess
import sys
import textwrap
import time

import pytest

from dapo.host.processes import end_sessions, family, is_alive, read_process
from dapo.spec.plan import ProcessPlan
from services.orchestrator.launch.local import LocalLauncher
from services.orchestrator.launch.supervisor import Supervisor
from tests.support.paths import REPO

# Ignores TERM, and has a child in a session of its own that does so too.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=True)
open(os.environ["PIDS"], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
time.sleep(600)
"""
FAILING = """
import sys
for i in range(100): print("line", i, file=sys.stderr)
print("model.path /none: holds no config.json", file=sys.stderr)
sys.exit(3)
"""
DONE = "print('all trained')"


@pytest.fixture
def plan(tmp_path):
    def make(role: str, source: str, **env: str) -> ProcessPlan:
        (tmp_path / f"scripted_{role}.py").write_text(source)
        return ProcessPlan(role, f"{role}-0", f"scripted_{role}", {"PYTHONPATH": f"{tmp_path}:{REPO}", **env})

    return make


async def eventually(condition, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition did not come about"
        await asyncio.sleep(0.05)


def test_a_failure_names_the_service_and_shows_the_end_of_its_log(plan, tmp_path):
    async def scenario():
        launcher = LocalLauncher(tmp_path / "run")
        children = await launcher.start([plan("generator", FAILING), plan("verifier", POLITE)])
        try:
            return await asyncio.wait_for(Supervisor(children).first_failure(), 30)
        finally:
            await launcher.stop()

    failure = asyncio.run(scenario())
    assert failure.headline == "generator-0 exited with code 3"
    lines = failure.log_end.splitlines()
    assert len(lines) == 30
    assert lines[-1] == "model.path /none: holds no config.json"
    assert failure.log == tmp_path / "run/logs/generator-0.log"
    assert "end of" in str(failure)


def test_the_learner_may_end_once_it_is_expected_to(plan, tmp_path):
    async def scenario():
        launcher = LocalLauncher(tmp_path / "run")
        children = await launcher.start([plan("learner", DONE), plan("verifier", POLITE)])
        supervisor = Supervisor(children)
        supervisor.expect_end("learner")
        watch = asyncio.create_task(supervisor.first_failure())
        await asyncio.wait_for(supervisor.wait_for_role("learner"), 30)
        await asyncio.sleep(0.2)
        early = watch.done()
        os.kill(children[1].process.pid, 9)
        failure = await asyncio.wait_for(watch, 30)
        await launcher.stop()
        return early, failure.headline

    assert asyncio.run(scenario()) == (False, "verifier-0 was ended by signal 9")


def test_code_0_is_a_failure_when_nobody_expects_it(plan, tmp_path):
    async def scenario():
        launcher = LocalLauncher(tmp_path / "run")
        children = await launcher.start([plan("learner", DONE)])
        failure = await asyncio.wait_for(Supervisor(children).first_failure(), 30)
        await launcher.stop()
        return failure.headline

    assert asyncio.run(scenario()) == "learner-0 exited with code 0"


def test_stop_ends_processes_that_ignore_term_and_their_children_elsewhere(plan, tmp_path):
    pids = tmp_path / "pids"

    async def scenario():
        launcher = LocalLauncher(tmp_path / "run")
        await launcher.start([plan("generator", STUBBORN, PIDS=str(pids)), plan("verifier", POLITE)])
        await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        found = [int(pid) for pid in pids.read_text().split()]
        assert {entry.pid for entry in family([found[0]])} == set(found)
        leaders = {child.process.pid: child.started for child in launcher.children}
        assert await end_sessions(leaders, term_s=0.5) == []
        await launcher.stop()
        return found + list(leaders)

    assert not [pid for pid in asyncio.run(scenario()) if (entry := read_process(pid)) and not entry.zombie]


def test_a_leader_whose_pid_was_given_to_another_process_is_left_alone():
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        entry = read_process(other.pid)
        assert entry is not None
        assert asyncio.run(end_sessions({other.pid: entry.started + 1}, term_s=0.2)) == []
        assert is_alive(entry)
    finally:
        other.kill()
        other.wait()


def test_a_child_dies_with_its_parent(tmp_path):
    child = (
        "from dapo.host.processes import die_with_parent; import time\n"
        "die_with_parent(); print('tied', flush=True); time.sleep(600)"
    )
    parent = textwrap.dedent(f"""
        import subprocess, sys
        p = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE, start_new_session=True)
        p.stdout.readline()
        print(p.pid, flush=True)
    """)
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True, cwd=REPO)
    pid = int(done.stdout)
    asyncio.run(eventually(lambda: (entry := read_process(pid)) is None or entry.zombie))


def test_a_child_that_comes_too_late_to_be_tied_ends_at_once():
    code = "from dapo.host.processes import die_with_parent; die_with_parent(); print('alive')"
    env = {**os.environ, "DAPO_PARENT_PID": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=REPO, check=False)
    assert (done.returncode, done.stdout) == (-15, "")
