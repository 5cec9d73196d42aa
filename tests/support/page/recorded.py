"""Folders of runs that have ended, written without running them."""

import functools
import json
import math
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dapo.host.files import write_json, write_text
from dapo.records.folder import RunFolder
from dapo.spec.load import dump_yaml, parse_spec
from dapo.telemetry.metrics import METRICS


def wave(step: int) -> float:
    return 0.5 + 0.4 * math.sin(step / 500) + 0.05 * math.sin(step * 7)


@functools.cache
def _spec(name: str, steps: int) -> str:
    written = {"name": name, "model": {"path": "./m"}, "data": {"path": "d.jsonl"}, "training": {"steps": steps}}
    return dump_yaml(parse_spec(json.dumps(written)))


def record_run(
    folder: Path, number: int, steps: int, *, name: str = "recorded", value: Callable[[int], float] = wave
) -> str:
    """A run's folder as one leaves it that has succeeded, with `value` as each metric; returns its id. The higher its
    number the newer it is."""
    run_id = f"{name}-20260101-{number:06d}-{uuid.uuid4().hex[:4]}"
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    write_text(run.spec, _spec(name, max(1, steps)))
    created = f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}.000+00:00"
    write_json(run.identity, {"run_id": run_id, "created_at": created, "taken_up": False})
    ending = {"state": "succeeded", "message": "", "steps": steps, "steps_total": steps, "ledger": {"trained": steps}}
    write_json(folder / "summary.json", ending)
    with run.metrics.open("w") as file:
        for step in range(1, steps + 1):
            row: dict[str, Any] = {metric.name: value(step) for metric in METRICS}
            file.write(json.dumps({**row, "step": step, "policy_version": step, "time_s": 2.0 * step}) + "\n")
    return run_id


def record_samples(folder: Path, texts: Sequence[str]) -> None:
    """A sample of one response for each text."""
    response = {"index": 0, "correct": True, "score": 1.0, "reason": "passed", "extracted": "", "tokens": 3}
    response |= {"truncated": False, "reward": 1.0, "penalty": 0.0, "version_min": 0, "version_max": 0}
    with RunFolder(folder).samples.open("w") as file:
        for step, text in enumerate(texts, 1):
            sample = {"step": step, "set": None, "group_id": f"g{step:010d}", "row_id": text, "prompt": text}
            sample |= {"gold": text, "grader": "exact", "outcome": "kept", "responses": [{**response, "text": text}]}
            file.write(json.dumps(sample) + "\n")
