"""The record of who changed what: a JSON line each in the service's directory."""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from dapo.host.files import append_line
from services.orchestrator.security.access import Caller

log = logging.getLogger(__name__)

AUDIT_FILE = "audit.jsonl"
"""Its name in the directory of a run service."""
Details = Mapping[str, str | int | bool | list[str]]


class Audit:
    """Appends to the file, which its owner alone can read. Opened for each line, so that it may be rotated."""

    def __init__(self, path: Path | None) -> None:
        """None: nothing is kept."""
        self._path = path

    def write(self, caller: Caller, operation: str, run: str, outcome: str, details: Details) -> None:
        """`outcome`: ok, or the name of the error. A line that cannot be written goes to the service's log."""
        if self._path is None:
            return
        row = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": caller.name,
            "address": caller.address,
            "operation": operation,
            "run": run,
            "outcome": outcome,
            **details,
        }
        line = json.dumps(row).encode() + b"\n"
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            append_line(self._path, line)
        except OSError as error:
            log.error("%s cannot be written (%s): %s", self._path, error.strerror, line.decode().rstrip())
