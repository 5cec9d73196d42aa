"""The client of the run API against a server that answers as it is told."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from dapo.client import RefusedRequest, RunClient, ServiceError, _parse_events

STATE = b'id: 1-0\nevent: state\ndata: {"state": "running"}\n\n'
REFUSAL = json.dumps({"error": {"code": "not_found", "message": "there is no run r-1", "problems": []}}).encode()


class Answers(BaseHTTPRequestHandler):
    status, body = 200, b"{}"
    requests: list[tuple[str, str, str | None, bytes]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.command, self.path, self.headers.get("Authorization"), body))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[type[Answers]]:
    fresh = type("FreshAnswers", (Answers,), {"requests": []})
    with HTTPServer(("127.0.0.1", 0), fresh) as server:
        fresh.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fresh
        server.shutdown()


def test_runs_are_started_read_and_stopped(answers):
    answers.body = b'{"id": "r-1", "state": "starting"}'
    with RunClient(answers.url, "secret") as client:
        assert client.create("steps: 1")["id"] == client.get("r-1")["id"] == client.stop("r-1")["id"] == "r-1"
    asked = [(method, path) for method, path, _, _ in answers.requests]
    assert asked == [("POST", "/v1/runs"), ("GET", "/v1/runs/r-1"), ("POST", "/v1/runs/r-1/stop")]
    assert json.loads(answers.requests[0][3]) == {"spec": "steps: 1", "run_dir": ""}
    assert {token for _, _, token, _ in answers.requests} == {"Bearer secret"}


def test_no_token_is_sent_where_there_is_none(answers):
    with RunClient(answers.url) as client:
        client.get("r-1")
    assert answers.requests[0][2] is None


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "http://[malformed"])
def test_the_service_is_asked_directly_whatever_proxies_there_are(answers, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with RunClient(answers.url) as client:
        client.get("r-1")
    assert len(answers.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, REFUSAL, RefusedRequest, "there is no run r-1"),
        (500, REFUSAL, ServiceError, "answered 500"),
        (403, b"<html>no</html>", ServiceError, "answered 403: <html>no</html>"),
        (404, b'{"detail": "Not Found"}', ServiceError, "answered 404"),
    ],
)
def test_errors_are_told_apart(answers, status, body, kind, message):
    answers.status, answers.body = status, body
    with RunClient(answers.url) as client:
        for call in (client.get, lambda run: list(client.events(run))):
            with pytest.raises(ServiceError, match=message) as raised:
                call("r-1")
            assert type(raised.value) is kind


def test_a_service_that_is_not_there_is_named(answers):
    with RunClient("http://127.0.0.1:1") as client:
        with pytest.raises(ServiceError, match="does not answer"):
            client.get("r-1")
        with pytest.raises(ServiceError, match="went away"):
            list(client.events("r-1"))


def test_events_come_until_the_stream_ends(answers):
    answers.body = STATE
    with RunClient(answers.url) as client:
        (event,) = client.events("r-1")
    assert event == ("1-0", "state", {"state": "running"})


def test_server_sent_events_are_read_back():
    lines = ["id: 1-0", "event: state", 'data: {"state": "running"}', "", "id: 2-0", "event: step", "data: {}", ""]
    events = list(_parse_events(iter(lines)))
    assert [(event.id, event.kind, event.data) for event in events] == [
        ("1-0", "state", {"state": "running"}),
        ("2-0", "step", {}),
    ]
