"""Which workers Prometheus is told to scrape: by its format, of runs that go on here, whichever server they are on."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dapo.bus import BusUnavailable
from services.orchestrator.fleet.service import RunService
from services.orchestrator.metrics import targets as module
from services.orchestrator.metrics.targets import find_targets
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.spec import spec

SAID = {
    "redis://a": {"r-1": {"generator-0": "10.0.0.1:9000", "learner-0": "10.0.0.2:9001"}, "r-2": {}},
    "redis://c": {"r-4": {"verifier-0": "[fd00::1]:9002"}},
}


def driver(run_id: str, url: str | None) -> Any:
    bus = None if url is None else SimpleNamespace(control_server=SimpleNamespace(url=url))
    return SimpleNamespace(run_id=run_id, spec=spec(), gauges=SimpleNamespace(workers=(), bus=bus))


async def addresses(server: Any, workers: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    if server.url == "redis://b":
        raise BusUnavailable("away")
    assert all({"generator-0", "verifier-0", "learner-0"} <= set(ids) for ids in workers.values())
    return {run_id: SAID[server.url][run_id] for run_id in workers}


def test_each_worker_that_says_where_is_a_target_and_the_engine_of_a_generator_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "metrics_addresses", addresses)
    service = RunService(FakeLauncher(), state_dir=tmp_path)
    runs = (("r-1", "redis://a"), ("r-2", "redis://a"), ("r-3", "redis://b"), ("r-4", "redis://c"), ("r-5", None))
    monkeypatch.setattr(service, "under_way", lambda: [driver(*one) for one in runs])
    found = [(group.targets, group.labels) for group in asyncio.run(find_targets(service))]

    def meta(run: str, worker: str, role: str) -> dict[str, str]:
        return {"__meta_dapo_run": run, "__meta_dapo_worker": worker, "__meta_dapo_role": role}

    engine = {"__metrics_path__": "/engine/metrics", "run": "r-1", "worker": "generator-0"}
    assert found == [
        (["10.0.0.1:9000"], meta("r-1", "generator-0", "generator")),
        (["10.0.0.1:9000"], meta("r-1", "generator-0", "engine") | engine),
        (["10.0.0.2:9001"], meta("r-1", "learner-0", "learner")),
        (["[fd00::1]:9002"], meta("r-4", "verifier-0", "verifier")),
    ]
