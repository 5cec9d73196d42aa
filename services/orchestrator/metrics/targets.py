"""Which workers Prometheus is to scrape: those of runs that go on here, as its HTTP service discovery reads them."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, Field

from dapo.bus import BusError
from dapo.bus.measures import metrics_addresses
from dapo.bus.server.connection import Server
from dapo.telemetry.server import ENGINE_PATH
from services.orchestrator.fleet.service import RunService
from services.orchestrator.runs.measured.gauges import ANSWER_S, workers_of

log = logging.getLogger(__name__)


class TargetGroup(BaseModel):
    targets: list[str] = Field(description="host:port.")
    labels: dict[str, str] = Field(description="Of all series that are scraped there, but those that begin with __.")


async def find_targets(service: RunService) -> list[TargetGroup]:
    """Of each worker what it exports itself, and of a generator also what SGLang does, under the run and the worker.
    Workers that export nothing (DAPO_METRICS_PORT) are left out, and so are those whose Redis does not answer."""
    roles: dict[str, dict[str, str]] = {}
    servers: dict[str, tuple[Server, dict[str, Sequence[str]]]] = {}
    for driver in service.under_way():
        if (bus := driver.gauges.bus) is not None:
            by_role = workers_of(driver.spec, driver.gauges.workers)
            workers = {worker: role for role, ids in by_role.items() for worker in ids}
            roles[driver.run_id] = workers
            _, on_it = servers.setdefault(bus.control_server.url, (bus.control_server, {}))
            on_it[driver.run_id] = list(workers)
    told = await asyncio.gather(*(_ask(server, workers) for server, workers in servers.values()))
    addresses = {run_id: found for part in told for run_id, found in part.items()}
    return [group for run_id in sorted(addresses) for group in _groups(run_id, roles[run_id], addresses[run_id])]


async def _ask(server: Server, workers: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await metrics_addresses(server, workers)
    except (BusError, TimeoutError) as error:
        log.warning("the workers of %d runs are not known: %s", len(workers), error or f"no answer for {ANSWER_S:g} s")
        return {}


def _groups(run_id: str, roles: Mapping[str, str], addresses: Mapping[str, str]) -> Iterator[TargetGroup]:
    """What a worker exports has its labels already; SGLang knows neither run nor worker."""
    for worker, address in sorted(addresses.items()):
        role = roles[worker]
        meta = {"__meta_dapo_run": run_id, "__meta_dapo_worker": worker, "__meta_dapo_role": role}
        yield TargetGroup(targets=[address], labels=meta)
        if role == "generator":
            labels = {"__metrics_path__": ENGINE_PATH, "run": run_id, "worker": worker}
            yield TargetGroup(targets=[address], labels={**meta, "__meta_dapo_role": "engine", **labels})
