"""The specs of runs that are struck."""

import json
from pathlib import Path
from typing import Any

from benchmarks.survival.audit import Promise

Spec = dict[str, Any]


def simulated(toy: Path, steps: int, *, ranks: int = 1, **sections: Spec) -> Spec:
    """A run on simulated engines: two generators and two verifiers, batches of 8 groups of 4."""
    spec: Spec = {
        "name": "struck",
        "seed": 1,
        "model": {"path": str(toy / "model")},
        "data": {"path": str(toy / "train.jsonl"), "max_prompt_tokens": 16},
        "sampling": {"group_size": 4, "max_response_tokens": 256},
        "reward": {"grader": "python:tests.support.simulator.grading:coin", "overlong_buffer_tokens": 64},
        "training": {"steps": steps, "prompts_per_step": 8, "updates_per_step": 1},
        "asynchrony": {"max_staleness": 2},
        "checkpoint": {"every_steps": 5},
        "resources": _resources(generators=2, verifiers=2, ranks=ranks),
    }
    return spec | {name: {**spec.get(name, {}), **section} for name, section in sections.items()}


def real(toy: Path, steps: int, *, ranks: int = 1) -> Spec:
    """The run of examples/reverse.yaml, with batches of 16 groups, two generators and a checkpoint every 3 steps."""
    return {
        "name": "struck",
        "seed": 1,
        "model": {"path": str(toy / "model")},
        "data": {"path": str(toy / "train.jsonl"), "max_prompt_tokens": 32},
        "sampling": {"group_size": 16, "max_response_tokens": 8},
        "reward": {"grader": "exact", "overlong_buffer_tokens": 2},
        "optimizer": {"learning_rate": 1e-4, "weight_decay": 0.0, "warmup_steps": 5},
        "training": {"steps": steps, "prompts_per_step": 16, "updates_per_step": 1},
        "checkpoint": {"every_steps": 3},
        "resources": _resources(generators=2, verifiers=1, ranks=ranks),
    }


def _resources(*, generators: int, verifiers: int, ranks: int) -> Spec:
    return {
        "generator": {"replicas": generators},
        "verifier": {"replicas": verifiers},
        "learner": {"ranks": ranks},
        "redis": {"memory_mib": 512},
        # Struck far more often than a process that has a fault of its own may end.
        "restarts": {"limit": 1000, "longest_pause_s": 1.0},
    }


def promise(spec: Spec) -> Promise:
    """What such a run must have kept."""
    staleness = spec.get("asynchrony", {}).get("max_staleness", 1)
    return Promise(spec["training"]["steps"], spec["training"]["prompts_per_step"], staleness)


def simulator(*, counts: Path | None = None, **options: float) -> dict[str, Any]:
    """Arguments of `platform.train` for engines with these SimulatorOptions; each counts its tokens in `counts`."""
    environment = {"SIMULATOR_OPTIONS": json.dumps(options)}
    if counts is not None:
        counts.mkdir(parents=True, exist_ok=True)
        environment["SIMULATOR_COUNTS"] = str(counts)
    return {"environment": environment}
