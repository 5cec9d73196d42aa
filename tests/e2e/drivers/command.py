"""Over the `dapo` command, as a process."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.drivers.driver import Happening, Place
from tests.support.paths import REPO


class CommandDriver:
    def __init__(self, place: Place) -> None:
        names = {"PYTHONPATH": str(REPO), "DAPO_URL": place.url, "DAPO_API_TOKEN": place.token}
        self._environment = {**os.environ, **names}

    def create(self, spec: dict[str, Any]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "spec.yaml"
            path.write_text(json.dumps(spec))
            return self._run("runs", "create", str(path)).strip()

    def watch(self, run_id: str) -> Iterator[Happening]:
        command = self._command("runs", "watch", run_id, "--json")
        process = subprocess.Popen(command, env=self._environment, cwd=REPO, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last: dict[str, Any] = {}
        for line in process.stdout:
            found = json.loads(line)
            last = found["data"]
            yield Happening(**found)
        assert process.wait() == {"succeeded": 0, "failed": 1, "stopped": 3}[last["state"]]

    def scale(self, run_id: str, generators: int) -> None:
        self._run("runs", "scale", run_id, "--generators", str(generators))

    def why(self, run_id: str, group_id: str) -> dict[str, Any]:
        return self._json("runs", "why", run_id, group_id)

    def stop(self, run_id: str) -> tuple[str, int]:
        run = self._json("runs", "stop", run_id)
        return run["state"], run["step"]

    def resume(self, run_id: str, changes: Sequence[str]) -> None:
        self._run("runs", "resume", run_id, *(part for change in changes for part in ("--set", change)))

    def export(self, run_id: str) -> str:
        return str(self._json("runs", "export", run_id)["directory"])

    def _json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._run(*arguments, "--json"))
        return found

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            self._command(*arguments), env=self._environment, cwd=REPO, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "dapo.cli.main", *arguments]
