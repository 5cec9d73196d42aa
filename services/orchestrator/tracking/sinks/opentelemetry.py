"""OpenTelemetry: a trace for each step, sent as OTLP over HTTP."""

import time
from typing import ClassVar

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Context, Status, StatusCode, set_span_in_context

import dapo
from dapo.spec.tree.tracking import OpentelemetrySpec
from services.orchestrator.tracking.sink import Row, Told, TrackedRun, Trained
from services.orchestrator.tracking.traces import Span, step_trace

_ANSWER_S = 10.0


class NotTaken(RuntimeError):
    """The collector has not taken spans; the service's log has its answer."""


class OpentelemetrySink:
    """Spans are sent with the call that makes them, so that what the collector refuses is seen.

    A step that is trained again was work again: it has another trace.
    """

    rewinds: ClassVar[bool] = True
    forgets: ClassVar[bool] = False

    def __init__(self, spec: OpentelemetrySpec) -> None:
        self._endpoint = f"{spec.endpoint.rstrip('/')}/v1/traces"
        self._exporter = OTLPSpanExporter(endpoint=self._endpoint, timeout=_ANSWER_S)

    def begin(self, run: TrackedRun, told: Told) -> None:
        self._model = run.spec.model.path
        resource = Resource.create(
            {
                "service.name": "dapo",
                "service.version": dapo.__version__,
                "service.instance.id": run.run_id,
                "dapo.run.id": run.run_id,
                "dapo.run.name": run.spec.name,
            }
        )
        provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        self._made = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._made))
        self._tracer: Tracer = provider.get_tracer("dapo", dapo.__version__)

    def step(self, row: Row, record: int, trained: Trained | None) -> None:
        if trained is not None:
            self._send(step_trace(row, trained, self._model))

    def evaluation(self, row: Row, record: int) -> None:
        end_ms = time.time_ns() // 1_000_000
        start_ms = end_ms - round(1000 * row["elapsed_s"])
        self._send(Span("evaluation", start_ms, end_ms, {"dapo.evaluation.set": row["set"], "dapo.step": row["step"]}))

    def alert(self, message: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._send(Span("alert", now_ms, now_ms, {"dapo.alert": message}))

    def end(self, state: str, message: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        attributes = {"dapo.state": state, "dapo.message": message}
        self._send(Span("end of run", now_ms, now_ms, attributes), state == "failed")

    def close(self) -> None:
        self._exporter.shutdown()

    def _send(self, span: Span, failed: bool = False) -> None:
        """One trace. Raises NotTaken."""
        self._made.clear()
        self._make(span, None, failed)
        if self._exporter.export(self._made.get_finished_spans()) is not SpanExportResult.SUCCESS:
            raise NotTaken(f"{self._endpoint} has not taken a trace within {_ANSWER_S:g} s")

    def _make(self, span: Span, context: Context | None, failed: bool = False) -> None:
        made = self._tracer.start_span(
            span.name, context, attributes=dict(span.attributes), start_time=span.start_ms * 1_000_000
        )
        if failed:
            made.set_status(Status(StatusCode.ERROR))
        for child in span.children:
            self._make(child, set_span_in_context(made))
        made.end(end_time=span.end_ms * 1_000_000)
