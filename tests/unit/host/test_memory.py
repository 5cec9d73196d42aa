"""Memory as Linux tells it, in folders as it has them."""

import subprocess
import sys
from pathlib import Path

import pytest

from dapo.host.memory import free_bytes, total_bytes

MACHINE = 9000 * 1024


def make_proc(folder: Path, groups: str) -> Path:
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text("MemTotal:       24000 kB\nMemFree:          100 kB\nMemAvailable:     9000 kB\n")
    (folder / "self" / "cgroup").write_text(groups)
    return folder


def make_v2(folder: Path, limit: str, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\n")


def make_v1(folder: Path, limit: int, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {cached}\n")


@pytest.mark.parametrize(
    ("limit", "used", "cached", "expected"),
    [
        ("max", 5, 0, MACHINE),
        ("1000000", 900000, 50000, 150000),
        ("1000000", 1200000, 0, 0),
        ("999999999", 1000, 0, MACHINE),
    ],
)
def test_the_machine_or_its_container_whichever_has_less(
    tmp_path: Path, limit: str, used: int, cached: int, expected: int
) -> None:
    proc = make_proc(tmp_path / "proc", "0::/\n")
    make_v2(tmp_path / "cgroup", limit, used, cached)
    assert free_bytes(proc, tmp_path / "cgroup") == expected


def test_a_machine_without_limits(tmp_path: Path) -> None:
    proc = make_proc(tmp_path / "proc", "0::/user.slice/session-1.scope\n")
    assert free_bytes(proc, tmp_path / "cgroup") == MACHINE


def test_a_limit_of_the_job_around_this_process(tmp_path: Path) -> None:
    proc = make_proc(tmp_path / "proc", "0::/slurm/job_7/step_0\n")
    make_v2(tmp_path / "cgroup" / "slurm" / "job_7", "2000000", 500000)
    make_v2(tmp_path / "cgroup" / "slurm" / "job_7" / "step_0", "max", 400000)
    make_v2(tmp_path / "cgroup" / "slurm" / "job_8", "1000", 0)
    assert free_bytes(proc, tmp_path / "cgroup") == 1500000
    assert total_bytes(proc, tmp_path / "cgroup") == 2000000


@pytest.mark.parametrize("inside", ["", "docker/abc"], ids=["own-root", "own-folder"])
def test_the_first_version_of_cgroups(tmp_path: Path, inside: str) -> None:
    """Where /proc names a folder that the container does not see, its own limit lies at the root."""
    proc = make_proc(tmp_path / "proc", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n")
    make_v1(tmp_path / "cgroup" / "memory" / inside, 3000000, 1000000, 200000)
    assert free_bytes(proc, tmp_path / "cgroup") == 2200000
    assert total_bytes(proc, tmp_path / "cgroup") == 3000000


def test_this_machine_has_some() -> None:
    assert 0 < free_bytes() <= total_bytes()


def test_what_a_process_has_held_grows_with_it_however_much_its_parent_held() -> None:
    report = "from dapo.host.memory import peak_bytes\n"
    child = f"{report}a = peak_bytes()\nheld = b'x' * 32 * 2**20\nprint(a, peak_bytes())"
    parent = "import subprocess, sys\nheld = b'x' * 256 * 2**20\n"
    parent += f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    printed = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout
    before, after = (int(word) for word in printed.split())
    assert before + 30 * 2**20 < after < 256 * 2**20
