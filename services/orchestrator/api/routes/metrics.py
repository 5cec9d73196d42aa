"""REST for Prometheus: the metrics of this service and its runs, and the workers that it is to scrape beside."""

from typing import Annotated, Any

from fastapi import FastAPI, Header, Response

from dapo.telemetry import exposition
from services.orchestrator.metrics.collector import Collector
from services.orchestrator.metrics.targets import TargetGroup, find_targets

METRICS = "/metrics"
"""It, and what is below."""
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "description": "Prometheus' text format; docs/metrics.md has the names.",
    }
}


def add_metrics(app: FastAPI, collector: Collector, guarded: dict[str, Any]) -> None:
    @app.get(METRICS, response_class=Response, responses=_TEXT, **guarded)
    async def read_metrics(
        accept_encoding: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Response:
        """What this service measures, and the runs that go on here, as Prometheus scrapes it."""
        found = exposition.answer(await collector.collect(), accept_encoding)
        return Response(found.body, headers=dict(found.headers))

    @app.get(f"{METRICS}/targets", **guarded)
    async def list_metrics_targets() -> list[TargetGroup]:
        """The workers of the runs that go on here, as Prometheus' service discovery (http_sd_configs) reads them."""
        return await find_targets(collector.service)


def create_metrics_app(collector: Collector) -> FastAPI:
    """These two alone, for a listener of their own: whoever reaches it may read."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_metrics(app, collector, {})
    return app
