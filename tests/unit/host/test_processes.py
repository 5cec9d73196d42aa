"""How children are started. (Ends of families: tests/integration/orchestrator/test_processes.py.)"""

import asyncio
import os
import subprocess
import sys
import textwrap

from dapo.host.processes import child_environment, python_command, read_process
from tests.support.paths import REPO
from tests.support.waiting import eventually


def test_a_child_inherits_what_it_is_not_denied(monkeypatch):
    monkeypatch.setenv("KEPT", "parent's")
    monkeypatch.setenv("CHANGED", "parent's")
    monkeypatch.setenv("DENIED", "secret")
    monkeypatch.setenv("DAPO_PARENT_PID", "1")
    environment = child_environment({"CHANGED": "child's", "ADDED": "child's"}, without=["DENIED", "ABSENT"])
    mine = {name: value for name, value in os.environ.items() if name != "DENIED"}
    changed = {"CHANGED": "child's", "ADDED": "child's", "DAPO_PARENT_PID": str(os.getpid())}
    assert environment == mine | changed


def test_a_child_knows_its_parent_and_an_orphan_ends():
    tied = "from dapo.host.processes import die_with_parent; die_with_parent(); print('alive')"
    child = subprocess.run([sys.executable, "-c", tied], env=child_environment(), capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (0, "alive\n")
    orphan = f"import subprocess, sys; sys.exit(-subprocess.run([sys.executable, '-c', {tied!r}]).returncode)"
    done = subprocess.run([sys.executable, "-c", orphan], env=child_environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (15, "")


def test_a_module_runs_in_this_interpreter():
    assert python_command("services.verifier", "--a", "b") == [sys.executable, "-m", "services.verifier", "--a", "b"]


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
