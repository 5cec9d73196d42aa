"""Both clients of the run API against a server that answers as it is told."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from dapo.client import AsyncRunClient, RefusedRequest, RunClient, ServiceError, ServiceSilent, SettingsError, reads
from tests.support.clients import KINDS, open_client

STATE = b'id: 1-0\nevent: state\ndata: {"state": "running"}\n\n'
RUN = b'{"id": "r-1", "state": "starting"}'
RUN_AND_SPEC = b'{"id": "r-1", "state": "starting", "yaml": "checkpoint: {on_stop_s: 60.0}"}'
PROBLEM = {"field": "training.steps", "given": "many", "message": "must be an integer"}
REFUSAL = json.dumps(
    {"type": "urn:dapo:problem:not_found", "detail": "there is no run r-1", "problems": [PROBLEM]}
).encode()


class Answers(BaseHTTPRequestHandler):
    url: str
    status, body = 200, b"{}"
    first: list[tuple[int, dict[str, str]]]
    """Statuses and headers of the first answers; then come `status` and `body`."""
    unended = False
    """Answers begin, and then nothing comes."""
    requests: list[tuple[str, str, str | None, bytes]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.command, self.path, self.headers.get("Authorization"), body))
        status, headers = self.first.pop(0) if self.first else (self.status, {})
        if not status:
            return  # The connection ends without an answer.
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.unended:
            self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(self.body)
        if self.unended:
            self.wfile.flush()
            self.rfile.read(1)  # until the client leaves

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[type[Answers]]:
    fresh = type("FreshAnswers", (Answers,), {"requests": [], "first": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), fresh) as server:
        server.daemon_threads = True
        fresh.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fresh
        server.shutdown()


@pytest.fixture(params=KINDS)
def client(request, answers):
    with open_client(request.param, answers.url, "secret") as opened:
        yield opened


def test_runs_are_started_read_and_stopped(answers, client):
    answers.body = RUN_AND_SPEC
    assert client.create("steps: 1")["id"] == client.get("r-1")["id"] == client.stop("r-1")["id"] == "r-1"
    asked = [(method, path) for method, path, _, _ in answers.requests]
    assert asked == [
        ("POST", "/v1/runs"),
        ("GET", "/v1/runs/r-1"),
        ("GET", "/v1/runs/r-1/spec"),
        ("POST", "/v1/runs/r-1/stop"),
    ]
    assert json.loads(answers.requests[0][3]) == {"spec": "steps: 1"}
    assert {token for _, _, token, _ in answers.requests} == {"Bearer secret"}


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_is_sent_where_there_is_none(answers, kind):
    with open_client(kind, answers.url) as client:
        client.get("r-1")
    assert answers.requests[0][2] is None


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "http://[malformed"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_service_is_asked_directly_whatever_proxies_there_are(answers, monkeypatch, proxy, kind):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with open_client(kind, answers.url) as client:
        client.get("r-1")
    assert len(answers.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, REFUSAL, RefusedRequest, "there is no run r-1"),
        (500, REFUSAL, RefusedRequest, "there is no run r-1"),
        (503, REFUSAL, RefusedRequest, "there is no run r-1"),
        (500, b"Internal Server Error", ServiceError, "answered 500: Internal Server Error"),
        (504, b"[]", ServiceError, "answered 504"),
        (403, b"<html>no</html>", ServiceError, "answered 403: <html>no</html>"),
        (404, b'{"detail": "Not Found"}', ServiceError, "answered 404"),
        (307, b"", ServiceError, "answered 307"),
    ],
)
def test_errors_are_told_apart(answers, client, status, body, kind, message):
    answers.status, answers.body = status, body
    for call in (client.get, lambda run: list(client.events(run))):
        with pytest.raises(ServiceError, match=message) as raised:
            call("r-1")
        assert type(raised.value) is kind


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"{}", b"[]"])
def test_another_server_is_told_from_a_run_service(answers, client, body):
    answers.body = body
    with pytest.raises(ServiceError, match=r"is it one \(dapo serve\)"):
        client.list()


def test_a_refusal_says_of_what_kind_it_is_and_which_fields_are_wrong(answers, client):
    answers.status, answers.body = 404, REFUSAL
    with pytest.raises(RefusedRequest) as raised:
        client.get("r-1")
    assert (raised.value.kind, raised.value.status) == ("urn:dapo:problem:not_found", 404)
    assert raised.value.problems == (PROBLEM,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_that_is_not_there_is_named(kind):
    with open_client(kind, "http://127.0.0.1:1") as client:
        with pytest.raises(ServiceError, match="does not answer"):
            client.get("r-1")
        with pytest.raises(ServiceError, match="went away"):
            list(client.events("r-1"))


def test_events_come_until_the_stream_ends(answers, client):
    answers.body = STATE
    (event,) = client.events("r-1")
    assert event == ("1-0", "state", {"state": "running"})


def test_a_stream_that_falls_silent_is_not_waited_for_forever(answers, client):
    answers.body, answers.unended = STATE, True
    events = client.events("r-1", silence_s=0.2)
    assert next(events).id == "1-0"
    with pytest.raises(ServiceSilent, match=r"nothing for 0\.2 s"):
        next(events)


@pytest.mark.parametrize(
    "failure", [(0, {}), (503, {}), (429, {"Retry-After": "1"})], ids=["no answer", "stopping", "too many requests"]
)
def test_what_may_be_sent_again_is_sent_again(answers, client, failure):
    answers.body, answers.first = RUN, [failure]
    assert client.get("r-1")["id"] == "r-1"
    answers.first = [failure]
    assert client.create("steps: 1", idempotency_key="k")["id"] == "r-1"
    assert len(answers.requests) == 4
    answers.first = [failure]
    with pytest.raises(ServiceError):
        client.create("steps: 1")
    assert len(answers.requests) == 5


def test_a_log_is_read_as_it_is_written(answers, client):
    answers.body = "10%\r20%\u2028page\x0c\nlast".encode()
    assert list(client.tail("r-1", "learner-0")) == ["10%\r20%\u2028page\x0c", "last"]


def test_an_awaited_client_holds_as_many_streams_as_are_wanted(answers):
    answers.body, answers.unended = b"one\n", True

    async def follow_many() -> str:
        async with AsyncRunClient(answers.url) as client:
            streams = [client.tail("r-1", "learner-0", follow=True) for _ in range(105)]
            assert [await anext(stream) for stream in streams] == ["one"] * 105
            answers.body, answers.unended = RUN, False
            found = await client.get("r-1")
            for stream in streams:
                await stream.aclose()
            return found["id"]

    assert asyncio.run(follow_many()) == "r-1"


def test_signs_of_life_are_no_part_of_a_log(answers, client):
    answers.body = b"\0one\0\ntw\0\0o\n\0"
    assert list(client.tail("r-1", "learner-0", follow=True)) == ["one", "two"]


def test_a_log_that_falls_silent_is_not_followed_forever(answers, client, monkeypatch):
    monkeypatch.setattr(reads, "_STREAM_SILENCE_S", 0.2)
    answers.body, answers.unended = b"one\n", True
    lines = client.tail("r-1", "learner-0", follow=True)
    assert next(lines) == "one"
    with pytest.raises(ServiceSilent, match=r"nothing for 0\.2 s"):
        next(lines)


@pytest.mark.parametrize("kind", [RunClient, AsyncRunClient])
@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("http://127.0.0.1:port", "", "is no URL"),
        ("http://u:secret@127.0.0.1:port", "", "is no URL"),
        ("http://u:secret@127.0.0.1:84000", "", "is no URL"),
        ("http://u:secret/1@h", "", "is no URL"),
        ("http://a..b", "", "is no URL"),
        ("127.0.0.1:8400", "", "give one such as http://127.0.0.1:8400"),
        ("http://", "", "DAPO_URL"),
        ("http://127.0.0.1:84000", "", "DAPO_URL"),
        ("http://127.0.0.1:1", "secret\n", "DAPO_API_TOKEN"),
        ("http://127.0.0.1:1", "geheim-ä", "DAPO_API_TOKEN"),
    ],
)
def test_what_cannot_be_asked_is_said_before(kind, url, token, message):
    with pytest.raises(SettingsError, match=message) as raised:
        kind.from_env({"DAPO_URL": url, "DAPO_API_TOKEN": token})
    assert "secret" not in str(raised.value)


def test_the_environment_says_where_the_service_is(answers, tmp_path):
    answers.body = RUN
    with RunClient.from_env({"DAPO_URL": answers.url, "DAPO_API_TOKEN": "of-env"}) as client:
        client.get("r-1")
    assert answers.requests[0][2] == "Bearer of-env"
    with pytest.raises(SettingsError, match="DAPO_TLS_CA"):
        RunClient.from_env({"DAPO_URL": answers.url, "DAPO_TLS_CA": str(tmp_path / "none.pem")})
