"""The weights that a simulated engine is sent, as SGLang would take them; their hashes are kept in a file."""

import hashlib
import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from tests.support.receiving import ReceivingGroup

_TIMEOUT = timedelta(seconds=60)


class ReceivedWeights:
    """Joins the learner's groups by the bodies of SGLang's requests and receives flattened buckets.

    `record` gets a line for each version: {"version": …, "backend": …, "tensors": {name: SHA-256 of its bytes}}.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._groups: dict[str, tuple[str, ReceivingGroup]] = {}
        self._tensors: dict[str, str] = {}

    def join(self, body: dict[str, Any]) -> None:
        name, backend = body["group_name"], body["backend"]
        group = ReceivingGroup(name, body["master_address"], body["master_port"], body["world_size"], backend, _TIMEOUT)
        self._groups[name] = (backend, group)

    def leave(self, name: str) -> None:
        self._groups.pop(name)[1].close()

    def receive(self, body: dict[str, Any]) -> None:
        """One bucket; the version's line is written with the last one."""
        backend, group = self._groups[body["group_name"]]
        sizes = [
            math.prod(shape) * getattr(torch, dtype).itemsize
            for shape, dtype in zip(body["shapes"], body["dtypes"], strict=True)
        ]
        parts = group.receive(sum(sizes)).split(sizes)
        for name, part in zip(body["names"], parts, strict=True):
            self._tensors[name] = hashlib.sha256(part.numpy().tobytes()).hexdigest()
        if body["weight_version"] is not None:
            line = {"version": body["weight_version"], "backend": backend, "tensors": self._tensors}
            with self._record.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._tensors = {}
