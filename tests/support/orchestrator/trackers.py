"""What trackers were told, read back: by their own libraries, or as a collector of traces that keeps what it gets."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.tracking import MlflowClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from services.orchestrator.tracking.sinks.tensorboard import FOLDER

_BLOCK, _HEADER, _FIRST = 32_768, 7, 7
"""Bytes of W&B's log: LevelDB's, with a header of its own before it."""


class Collector(NamedTuple):
    url: str
    requests: list[ExportTraceServiceRequest]
    headers: list[dict[str, str]]

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    """A collector of OTLP over HTTP that answers everything with `status`."""
    requests: list[ExportTraceServiceRequest] = []
    headers: list[dict[str, str]] = []

    class Handler(_Silent):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                requests.append(ExportTraceServiceRequest.FromString(body))
                headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(status if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with _serving(Handler) as url:
        yield Collector(url, requests, headers)


@contextmanager
def wandb_server(run_id: str, status: int) -> Iterator[str]:
    """Its URL. A server of W&B that makes the run, and answers the stream of its records with `status`."""
    bucket = {"id": "1", "name": run_id, "config": "{}", "historyLineCount": 0}
    bucket |= {"project": {"id": "1", "name": "dapo", "entity": {"id": "1", "name": "me"}}}
    data = {
        "viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
        "serverInfo": {"cliVersionInfo": {"max_cli_version": "0.99.0"}, "features": []},
        "upsertBucket": {"bucket": bucket, "inserted": True},
        "model": {"bucket": None},
        "createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []},
    }

    class Handler(_Silent):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            streamed = self.path.endswith("/file_stream")
            body = b"{}" if streamed else json.dumps({"data": data}).encode()
            self.send_response(status if streamed else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with _serving(Handler) as url:
        yield url


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Tests read what came, not a log."""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def scalars(run_dir: Path, name: str) -> list[tuple[int, float]]:
    """(step, value), as TensorBoard shows it."""
    accumulator = EventAccumulator(str(run_dir / FOLDER), size_guidance={"scalars": 0})
    accumulator.Reload()
    if name not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def mlflow_client(run_dir: Path) -> MlflowClient:
    """Of the run's own `file:mlruns`."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient(tracking_uri=(run_dir / "mlruns").as_uri())


def wandb_records(run_dir: Path) -> list[Record]:
    """Of all starts that were offline, in their order."""
    files = sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    return [Record.FromString(data) for path in files for data in _log_entries(path.read_bytes())]


def wandb_history(run_dir: Path) -> list[dict[str, Any]]:
    """The records that a server would keep: one under a number that it has is dropped. Values as JSON text."""
    found: dict[str, dict[str, Any]] = {}
    for record in wandb_records(run_dir):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            found.setdefault(items["_step"], items)
    return list(found.values())


def _log_entries(data: bytes) -> Iterator[bytes]:
    assert data.startswith(b":W&B")
    at, parts = _FIRST, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0:
            return
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""
