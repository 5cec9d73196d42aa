"""Disks that are really full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of `kib` KiB at `folder`, which is made. Skips the test where only root may mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        # Lazily: a process that is just ending may still have a file open there.
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, leave_kib: int = 0) -> Path:
    """A file that takes all of the disk but `leave_kib` KiB."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
        file.truncate(max(0, file.tell() - (leave_kib << 10)))
    return path
