"""The local launcher with real processes."""

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dapo.environment import SERVICE_KEYS
from dapo.host.processes import end_sessions, family, is_alive, read_process
from dapo.spec.workloads import Resources, Workload
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import LaunchError, RunTarget, WorkerState, WorkerStatus
from services.orchestrator.launch.local import LocalLauncher
from tests.support.paths import REPO
from tests.support.waiting import eventually

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


RUN = "r-1"


@pytest.fixture
def workload(tmp_path):
    def make(role: str, source: str, replicas: int = 1, **env: str) -> Workload:
        (tmp_path / f"scripted_{role}.py").write_text(source)
        return Workload(role, role, replicas, f"scripted_{role}", {"PYTHONPATH": f"{tmp_path}:{REPO}", **env})

    return make


def make_launcher(tmp_path, devices: tuple[str, ...] = ()) -> LocalLauncher:
    return LocalLauncher(DeviceAllocator(devices, tmp_path / "locks"))


def target(tmp_path, run_id: str = RUN, payload_url: str | None = None) -> RunTarget:
    return RunTarget(run_id, "redis://u:secret@127.0.0.1:7000", payload_url, tmp_path / run_id)


async def ended(launcher: LocalLauncher, worker_id: str) -> WorkerStatus:
    async with asyncio.timeout(30):
        while True:
            found = next(one for one in await launcher.observe(RUN) if one.worker_id == worker_id)
            if found.state != WorkerState.RUNNING:
                return found
            await asyncio.sleep(0.05)


def test_a_failure_has_its_code_and_the_end_of_its_log(workload, tmp_path):
    async def scenario():
        launcher = make_launcher(tmp_path)
        await launcher.apply(target(tmp_path), [workload("generator", FAILING), workload("verifier", POLITE)])
        try:
            status = await ended(launcher, "generator-0")
            return status, await launcher.logs(RUN, "generator-0")
        finally:
            await launcher.stop(RUN)

    status, log = asyncio.run(scenario())
    assert str(status) == "generator-0 exited with code 3"
    lines = log.text.splitlines()
    assert len(lines) == 30
    assert lines[-1] == "model.path /none: holds no config.json"
    assert log.source == str(tmp_path / RUN / "logs/generator-0.log")


def test_applying_again_starts_only_what_is_missing_or_has_ended(workload, tmp_path):
    async def scenario():
        launcher = make_launcher(tmp_path)
        polite, done = workload("verifier", POLITE), workload("learner", DONE)
        await launcher.apply(target(tmp_path), [polite, done])
        assert (await ended(launcher, "learner-0")).code == 0
        await launcher.apply(target(tmp_path), [workload("verifier", POLITE, replicas=3), done])
        grown = [(one.worker_id, one.state.value) for one in await launcher.observe(RUN)]
        logs = tmp_path / RUN / "logs"
        await eventually(lambda: all("up" in (logs / f"verifier-{at}.log").read_text() for at in range(3)))
        await launcher.apply(target(tmp_path), [polite])
        shrunk = [(one.worker_id, one.state.value) for one in await launcher.observe(RUN)]
        await launcher.stop(RUN)
        texts = [(logs / f"verifier-{at}.log").read_text() for at in range(3)]
        return grown, shrunk, await launcher.observe(RUN), texts

    grown, shrunk, after, logs = asyncio.run(scenario())
    assert [worker for worker, _ in grown] == ["verifier-0", "verifier-1", "verifier-2", "learner-0"]
    assert {state for _, state in grown[:3]} == {"running"}
    assert shrunk == [("verifier-0", "running")]
    assert after == []
    assert logs == ["up\n"] * 3  # none was started twice


def test_workers_that_cannot_all_be_started_leave_the_run_as_it_was(workload, tmp_path):
    """One of three cannot: where its log should be there is a folder."""

    async def scenario():
        launcher = make_launcher(tmp_path, ("0", "1", "2"))
        others = set(psutil.Process().children())
        on_gpu = replace(workload("generator", POLITE), resources=Resources("auto", 1))
        (tmp_path / RUN / "logs" / "generator-2.log").mkdir(parents=True)
        refused = [replace(on_gpu, replicas=3)]
        with pytest.raises(LaunchError, match=r"cannot start generator-2 .*Is a directory"):
            await launcher.apply(target(tmp_path), refused)
        assert await launcher.observe(RUN) == []
        await launcher.apply(target(tmp_path, "other"), [replace(on_gpu, replicas=3)])  # no GPU is held
        await launcher.stop("other")
        await launcher.apply(target(tmp_path), [on_gpu, workload("verifier", POLITE)])
        before = await launcher.observe(RUN)
        with pytest.raises(LaunchError, match="cannot start generator-2"):
            await launcher.apply(target(tmp_path), refused)
        after = await launcher.observe(RUN)
        assert after[0] == before[0], "it stayed, and was not started anew"
        assert [one.worker_id for one in after] == ["generator-0", "verifier-0"]
        assert after[1].state == WorkerState.EXITED, "it was to leave, and is started again as one that has ended"
        await launcher.restart(RUN, ["verifier-0"])
        found = [one.state for one in await launcher.observe(RUN)], len(set(psutil.Process().children()) - others)
        await launcher.stop(RUN)
        return found

    assert asyncio.run(scenario()) == ([WorkerState.RUNNING] * 2, 2)


ENVIRONMENT = """
import json, os
print(json.dumps(dict(os.environ)))
"""


def test_every_worker_knows_its_run_and_its_place(workload, tmp_path, monkeypatch):
    for name in SERVICE_KEYS:
        monkeypatch.setenv(name, "secret")

    async def scenario():
        launcher = make_launcher(tmp_path, ("0", "1", "2"))
        on_gpu = replace(workload("learner", ENVIRONMENT, replicas=2), resources=Resources("auto", 1))
        on_cpu = workload("verifier", ENVIRONMENT)
        await launcher.apply(target(tmp_path, payload_url="redis://p"), [on_gpu, on_cpu])
        for worker in ("learner-0", "learner-1", "verifier-0"):
            await ended(launcher, worker)
        logs = [await launcher.logs(RUN, one.worker_id) for one in await launcher.observe(RUN)]
        await launcher.stop(RUN)
        return {env["DAPO_WORKER_ID"]: env for env in (json.loads(one.text) for one in logs)}

    found = asyncio.run(scenario())
    for env in found.values():
        assert env["DAPO_RUN_ID"] == RUN
        assert env["DAPO_RUN_DIR"] == str(tmp_path / RUN)
        assert env["DAPO_REDIS_URL"] == "redis://u:secret@127.0.0.1:7000"
        assert env["DAPO_PAYLOAD_URL"] == "redis://p"
        assert env["DAPO_ADDRESS"] == "127.0.0.1"
        assert not env.keys() & set(SERVICE_KEYS)
    assert [(found[f"learner-{at}"]["DAPO_REPLICA"], found[f"learner-{at}"]["DAPO_REPLICAS"]) for at in (0, 1)] == [
        ("0", "2"),
        ("1", "2"),
    ]
    assert [found[worker]["CUDA_VISIBLE_DEVICES"] for worker in ("learner-0", "learner-1", "verifier-0")] == [
        "0",
        "1",
        "",
    ]
    assert found["verifier-0"]["OMP_NUM_THREADS"] == "1"


def test_a_second_run_beside_the_first_gets_other_gpus(workload, tmp_path):
    async def gpus(launcher: LocalLauncher, run_id: str) -> list[str]:
        on_gpu = replace(workload("learner", ENVIRONMENT, replicas=2), resources=Resources("auto", 1))
        await launcher.apply(target(tmp_path, run_id), [on_gpu])
        logs = tmp_path / run_id / "logs"
        texts = [logs / f"learner-{at}.log" for at in (0, 1)]
        await eventually(lambda: all("CUDA_VISIBLE_DEVICES" in path.read_text() for path in texts))
        return [json.loads(path.read_text())["CUDA_VISIBLE_DEVICES"] for path in texts]

    async def scenario():
        first = make_launcher(tmp_path, ("0", "1", "2", "3", "4"))
        other_service = make_launcher(tmp_path, ("0", "1", "2", "3", "4"))
        found = [await gpus(first, "a"), await gpus(other_service, "b")]
        with pytest.raises(LaunchError, match="1 are free"):
            await gpus(first, "c")
        await first.stop("a")
        found.append(await gpus(other_service, "d"))
        await other_service.stop("b")
        await other_service.stop("d")
        return found

    assert asyncio.run(scenario()) == [["0", "1"], ["2", "3"], ["0", "1"]]


def test_a_gpu_stays_with_the_worker_of_a_service_that_was_killed(tmp_path):
    (tmp_path / "scripted.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)")
    service = textwrap.dedent(f"""
        import asyncio, time
        from pathlib import Path
        from dapo.spec.workloads import Resources, Workload
        from services.orchestrator.launch.devices import DeviceAllocator
        from services.orchestrator.launch.launcher import RunTarget
        from services.orchestrator.launch.local import LocalLauncher
        async def main():
            launcher = LocalLauncher(DeviceAllocator(("0",), Path({str(tmp_path / "locks")!r})))
            environment = {{"PYTHONPATH": {str(tmp_path)!r}}}
            worker = Workload("learner", "learner", 1, "scripted", environment, Resources("auto", 1))
            await launcher.apply(RunTarget("a", "redis://x", None, Path({str(tmp_path / "a")!r})), [worker])
            status = launcher._runs["a"].children["learner-0"]
            print(status.process.pid, flush=True)
            time.sleep(600)
        asyncio.run(main())
    """)
    killed = subprocess.Popen([sys.executable, "-c", service], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    worker = int(killed.stdout.readline())
    killed.kill()
    killed.wait()
    killed.stdout.close()
    ours = DeviceAllocator(("0",), tmp_path / "locks")
    on_gpu = [Workload("learner", "learner", 1, "scripted", {}, Resources("auto", 1))]
    with pytest.raises(LaunchError, match="0 are free"):
        ours.assign("b", on_gpu)
    os.kill(worker, 9)
    asyncio.run(eventually(lambda: (entry := read_process(worker)) is None or entry.zombie))
    assert ours.assign("b", on_gpu) == {"learner-0": ("0",)}


def processes_with(marker: str) -> list[int]:
    """Those that live, by a variable of their environment."""
    return [one.pid for one in psutil.process_iter() if alive_with(one, marker)]


def alive_with(process: psutil.Process, marker: str) -> bool:
    try:
        return marker in process.environ().values() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


LINGERING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), sys.exit(0)))
print("up", flush=True)
time.sleep(600)
"""


async def up(tmp_path: Path, *workers: str) -> None:
    logs = [tmp_path / RUN / "logs" / f"{worker}.log" for worker in workers]
    await eventually(lambda: all("up" in log.read_text() for log in logs))


def test_a_run_that_is_stopped_while_it_is_scaled_leaves_no_worker(workload, tmp_path):
    marker = f"{tmp_path}/marker"

    async def scenario():
        launcher = make_launcher(tmp_path)
        await launcher.apply(target(tmp_path), [workload("verifier", LINGERING, replicas=3, MARKER=marker)])
        await up(tmp_path, "verifier-0", "verifier-1", "verifier-2")
        scaling = asyncio.create_task(
            launcher.apply(target(tmp_path), [workload("verifier", LINGERING, replicas=2, MARKER=marker)])
        )
        await asyncio.sleep(0.2)
        await launcher.stop(RUN)
        await asyncio.wait({scaling})
        with pytest.raises(LaunchError, match="were stopped"):
            await launcher.restart(RUN, ["verifier-0"])
        left = processes_with(marker)
        for pid in left:
            os.kill(pid, 9)
        return left, await launcher.observe(RUN)

    assert asyncio.run(scenario()) == ([], [])


def test_a_worker_that_is_restarted_while_its_run_is_scaled_runs_once(workload, tmp_path):
    marker = f"{tmp_path}/marker"

    async def scenario():
        launcher = make_launcher(tmp_path)
        await launcher.apply(target(tmp_path), [workload("verifier", LINGERING, MARKER=marker)])
        await up(tmp_path, "verifier-0")
        restarting = asyncio.create_task(launcher.restart(RUN, ["verifier-0"]))
        await asyncio.sleep(0.2)
        await launcher.apply(target(tmp_path), [workload("verifier", LINGERING, replicas=2, MARKER=marker)])
        await restarting
        running = processes_with(marker)
        known = await launcher.observe(RUN)
        await launcher.stop(RUN)
        left = processes_with(marker)
        for pid in left:
            os.kill(pid, 9)
        return len(running), [(one.worker_id, one.state.value) for one in known], left

    running, known, left = asyncio.run(scenario())
    assert known == [("verifier-0", "running"), ("verifier-1", "running")]
    assert running == 2
    assert left == []


def test_stop_ends_processes_that_ignore_term_and_their_children_elsewhere(workload, tmp_path):
    pids = tmp_path / "pids"

    async def scenario():
        launcher = make_launcher(tmp_path)
        await launcher.apply(
            target(tmp_path), [workload("generator", STUBBORN, PIDS=str(pids)), workload("verifier", POLITE)]
        )
        await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        found = [int(pid) for pid in pids.read_text().split()]
        assert {entry.pid for entry in family([found[0]])} == set(found)
        leaders = {entry.pid: entry.started for entry in family([os.getpid()]) if entry.parent == os.getpid()}
        assert set(found[:1]) < set(leaders)
        assert await end_sessions(leaders, term_s=0.5) == []
        await launcher.stop(RUN)
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
