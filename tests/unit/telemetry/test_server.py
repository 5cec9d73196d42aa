"""What a worker answers to scrapes, on loopback, and where it says that it does."""

import http.client
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dapo.contracts.verdicts import GRADER_FAILURES
from dapo.host.addresses import ADDRESS
from dapo.spec.workloads import plan_workloads
from dapo.telemetry import server as module
from dapo.telemetry.server import ENGINE_PATH, METRICS_PORT, PATH, MetricsServer
from dapo.worker import BadMetricsPort, WorkerEnvironment
from services.orchestrator.launch.launcher import RunTarget
from services.orchestrator.launch.local import _environment
from services.verifier.graders import right, wrong
from services.verifier.grading.dispatch import Grading
from services.verifier.instruments import count_failures, count_graded, observe_wait
from tests.support.spec import spec
from tests.support.waiting import until

LABELS = {"run": "r-1", "worker": "verifier-0"}
ENGINE_SAYS = b"# TYPE sglang:num_running_reqs gauge\nsglang:num_running_reqs 3\n"


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    one = MetricsServer("127.0.0.1", 0, LABELS)
    yield one
    one.close()


def ask(server: MetricsServer, path: str = PATH, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, []).append((one.labels, one.value))
    return found


def test_a_scrape_has_the_instruments_under_the_run_and_the_worker(server: MetricsServer) -> None:
    def graded() -> float:
        rows = samples(ask(server)[1]).get("dapo_verifier_graded_total", [])
        return sum(value for labels, value in rows if labels == {**LABELS, "grader": "exact", "verdict": "correct"})

    before = graded()
    count_graded([("exact", right("equal")), ("exact", wrong("different"))])
    assert graded() == before + 1
    status, text = ask(server)
    assert status == 200
    found = samples(text)
    assert all(LABELS.items() <= labels.items() for rows in found.values() for labels, _ in rows)
    assert found["process_resident_memory_bytes"][0][1] > 0


def test_graders_that_the_data_made_up_share_one_label(server: MetricsServer) -> None:
    for name in ("made-up", "made-up-too"):
        count_failures([(name, wrong("unknown_grader", name))])
    count_failures([("judge", wrong("unavailable"))])
    rows = samples(ask(server)[1])["dapo_verifier_failures_total"]
    reasons = {(labels["grader"], labels["reason"]) for labels, _ in rows}
    assert {("unknown", "unknown_grader"), ("judge", "unavailable")} <= reasons
    assert not {"made-up", "made-up-too"} & {grader for grader, _ in reasons}


def test_failures_of_graders_that_the_spec_names_are_counted_from_zero(server: MetricsServer) -> None:
    spec_of_run = spec(reward__grader="json_schema")
    Grading(spec_of_run.named_graders, spec_of_run.reward)
    rows = samples(ask(server)[1])["dapo_verifier_failures_total"]
    found = {labels["reason"]: value for labels, value in rows if labels["grader"] == "json_schema"}
    assert found == dict.fromkeys(GRADER_FAILURES - {"unknown_grader"}, 0)


def test_how_long_a_completion_waited_is_told_by_its_id(server: MetricsServer, monkeypatch: Any) -> None:
    def seen() -> tuple[float, float]:
        found = samples(ask(server)[1])
        return found["dapo_verifier_wait_seconds_count"][0][1], found["dapo_verifier_wait_seconds_sum"][0][1]

    count, total = seen()
    monkeypatch.setattr("services.verifier.instruments.time", SimpleNamespace(time=lambda: 1_000.0))
    observe_wait(["998500-3", "1000400-0"])  # the second by a clock that is ahead
    assert seen() == (count + 2, pytest.approx(total + 1.5))


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/metrics/", "GET", 404), (PATH, "POST", 405)]
)
def test_other_requests_are_refused(server: MetricsServer, path: str, method: str, status: int) -> None:
    assert ask(server, path, method)[0] == status


class Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/metrics"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(ENGINE_SAYS)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_what_the_engine_exports_is_handed_on_while_there_is_one(server: MetricsServer) -> None:
    assert ask(server, ENGINE_PATH)[0] == 503
    engine = HTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=engine.serve_forever, daemon=True).start()
    server.engine = lambda: f"http://127.0.0.1:{engine.server_port}"
    try:
        assert ask(server, ENGINE_PATH) == (200, ENGINE_SAYS.decode())
    finally:
        engine.shutdown()
        engine.server_close()
    assert ask(server, ENGINE_PATH)[0] == 502


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Length: 1000", ENGINE_SAYS),
        ("Transfer-Encoding: chunked", b"1000\r\n" + ENGINE_SAYS),
        ("Transfer-Encoding: chunked", b"4\r\n# TY\r\n"),
    ],
)
def test_what_an_engine_breaks_off_is_not_handed_on_as_if_it_were_whole(
    server: MetricsServer, header: str, body: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as engine:

        def answer_partly() -> None:
            with engine.accept()[0] as client:
                client.recv(65536)
                client.sendall(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode() + body)

        thread = threading.Thread(target=answer_partly)
        thread.start()
        server.engine = lambda: f"http://127.0.0.1:{engine.getsockname()[1]}"
        assert ask(server, ENGINE_PATH)[0] == 502
        thread.join(10)


def test_a_client_that_breaks_off_prints_nothing(
    server: MetricsServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=module.__name__)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
        client.sendall(b"GET /metrics")
    until(lambda: caplog.messages, bool, 10)
    assert "was broken off" in caplog.messages[0]
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_says_nothing_holds_nobody_up(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as silent:
        assert ask(server)[0] == 200
        assert silent.recv(1) == b""


class Registry:
    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def advertise(self, what: str, address: str) -> None:
        self.said[what] = address


def environment(monkeypatch: pytest.MonkeyPatch, port: str | None) -> tuple[WorkerEnvironment, Any]:
    monkeypatch.setenv(ADDRESS, "127.0.0.1")
    if port is None:
        monkeypatch.delenv(METRICS_PORT, raising=False)
    else:
        monkeypatch.setenv(METRICS_PORT, port)
    of = WorkerEnvironment("r-1", Path(), "verifier-0", 0, 1, "redis://127.0.0.1:1/0", None, 1.0)
    return of, SimpleNamespace(registry=Registry())


def test_a_worker_listens_where_it_is_told_to_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    of, bus = environment(monkeypatch, "0")
    server = of.export_metrics(bus)
    assert server is not None
    try:
        assert bus.registry.said == {"metrics-verifier-0": server.address}
        assert ask(server)[0] == 200
        taken, _ = environment(monkeypatch, server.address.rpartition(":")[2])
        with pytest.raises(BadMetricsPort, match=r"cannot listen at 127.0.0.1 .* take 0, for a free port"):
            taken.export_metrics(bus)
    finally:
        server.close()


def test_a_worker_that_is_not_told_listens_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    of, bus = environment(monkeypatch, None)
    assert of.export_metrics(bus) is None
    assert bus.registry.said == {}


@pytest.mark.parametrize("port", ["-1", "65536", "http", "1.5"])
def test_what_is_no_port_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    of, bus = environment(monkeypatch, port)
    with pytest.raises(BadMetricsPort, match=r"DAPO_METRICS_PORT = .* is no port: take 0 to 65535"):
        of.export_metrics(bus)


@pytest.mark.parametrize(("given", "port"), [(None, None), ("0", "0"), ("9400", "0")])
def test_workers_of_one_host_take_free_ports(monkeypatch: pytest.MonkeyPatch, given: str | None, port: str) -> None:
    environment(monkeypatch, given)
    workload = plan_workloads(spec())[0]
    found = _environment(RunTarget("r", "redis://x", None, Path()), workload, 0, None, "127.0.0.1")
    assert found.get(METRICS_PORT) == port
