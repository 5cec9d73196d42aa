"""Runs the platform the way a user does, by the `dapo` command, and looks at what is left behind."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.paths import REPO

DAPO = Path(sys.executable).parent / "dapo"
MARK = "DAPO_E2E_MARK"


@dataclass
class Platform:
    """Starts `dapo` commands whose every descendant carries a mark in its environment."""

    toy: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1"}
        command = [str(DAPO), *map(str, arguments)]
        return subprocess.Popen(
            command,
            cwd=REPO,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def train(self, run_dir: Path, **settings: object) -> tuple[str, ...]:
        """Arguments that train the toy into `run_dir`; `a__b=v` stands for `--set a.b=v`."""
        values = {
            "model.path": self.toy / "model",
            "data.path": self.toy / "train.jsonl",
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
        return ("train", "examples/reverse.yaml", "--run-dir", str(run_dir), *sets)

    def left_behind(self) -> list[str]:
        """Living processes of this platform, as `pid command`."""
        left = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(f"{process.pid} {' '.join(process.cmdline())}")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return left


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's base model and data."""
    directory = tmp_path_factory.mktemp("toy")
    subprocess.run([DAPO, "model", "toy-reverse", directory], check=True, cwd=REPO)
    return directory


@pytest.fixture
def platform(toy: Path) -> Iterator[Platform]:
    platform = Platform(toy)
    yield platform
    for line in platform.left_behind():
        psutil.Process(int(line.split()[0])).kill()
