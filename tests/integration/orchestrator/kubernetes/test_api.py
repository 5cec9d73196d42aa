"""What an API server answers when it is not well: a server that says what the test has it say."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client

from services.orchestrator.launch.kubernetes import api as module
from services.orchestrator.launch.kubernetes import watching
from services.orchestrator.launch.kubernetes.api import ApiError, KubernetesApi
from services.orchestrator.launch.kubernetes.watching import PodWatch
from services.orchestrator.launch.launcher import LaunchError

Answer = tuple[int, Any]
Script = Callable[[str, str], Answer | None]
"""Method and path → status and body (bytes are sent as they are); None: no answer."""


@contextmanager
def answering(script: Script) -> Iterator[tuple[KubernetesApi, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(f"{self.command} {self.path}")
            answer = script(self.command, self.path)
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = client.Configuration()
    settings.host, settings.retries = f"http://127.0.0.1:{server.server_port}", False
    try:
        yield KubernetesApi(client.ApiClient(settings), "lab"), asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(watching, "_PAUSE_S", 0.05)


MANIFEST = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}, "data": {"a": "b"}}


@pytest.mark.parametrize(
    "trouble", [(429, {"message": "slow down"}), (503, b"oops"), (409, {"message": "modified"}), None]
)
def test_what_may_succeed_later_is_asked_again(trouble: Answer | None) -> None:
    tries = iter([trouble, trouble])
    with answering(lambda method, path: next(tries, (200, MANIFEST))) as (api, asked):
        assert asyncio.run(api.apply(MANIFEST)) == MANIFEST
    assert len(asked) == 3
    assert set(asked) == {"PATCH /api/v1/namespaces/lab/configmaps/owner?fieldManager=dapo&force=true"}


def test_a_server_that_stays_away_is_told_within_the_bound() -> None:
    began = time.monotonic()
    with answering(lambda method, path: (503, {"message": "etcd is away"})) as (api, asked):
        with pytest.raises(ApiError, match=r"503.*etcd is away"):
            asyncio.run(api.get("ConfigMap", "owner"))
        assert len(asked) > 5
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((403, {"message": "configmaps is forbidden"}), r"Role of the chart"),
        ((403, {"message": "exceeded quota: few"}), r"Raise the quota of namespace lab"),
        ((401, {"message": "Unauthorized"}), r"a token that is valid"),
        ((422, {"message": "spec.replicas: Invalid"}), r"spec\.replicas: Invalid"),
    ],
)
def test_what_is_refused_is_told_at_once_with_the_cure(answer: Answer, words: str) -> None:
    with answering(lambda method, path: answer) as (api, asked):
        with pytest.raises(LaunchError, match=words):
            asyncio.run(api.apply(MANIFEST))
        assert len(asked) == 1


@pytest.mark.parametrize(("status", "uid"), [(404, None), (404, "u"), (409, "u")])
def test_what_is_gone_or_another_one_is_not_deleted(status: int, uid: str | None) -> None:
    with answering(lambda method, path: (status, {"message": "gone"})) as (api, asked):
        asyncio.run(api.delete("Pod", "generator-0", uid=uid))
        assert len(asked) == 1
        assert asyncio.run(api.get("Pod", "generator-0")) is None if status == 404 else True


def pod(name: str, version: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": version, "labels": {"dapo.dev/run": "toy"}}}


def event(kind: str, one: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": one}).encode() + b"\n"


def test_pods_are_watched_from_the_list_on_and_listed_again_where_changes_were_missed() -> None:
    gone = {"code": 410, "message": "too old resource version"}
    streams = iter(
        [
            event("ADDED", pod("b", "6")) + event("DELETED", pod("a", "7")),
            event("BOOKMARK", pod("", "9")),
            event("ERROR", gone),
        ]
    )
    lists = iter([["a"], ["c"]])

    def script(method: str, path: str) -> Answer | None:
        if "watch=true" in path:
            if (stream := next(streams, None)) is not None:
                return 200, stream
            time.sleep(1)
            return None
        names = next(lists, ["c"])
        return 200, {"items": [pod(name, "5") for name in names], "metadata": {"resourceVersion": "5"}}

    with answering(script) as (api, asked):
        watch = PodWatch(api, "app.kubernetes.io/managed-by=dapo")
        watch.start()
        assert watch.wait_listed(10)
        deadline = time.monotonic() + 10
        while [one["metadata"]["name"] for one in watch.pods("toy")] != ["c"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert watch.pods("other") == []
        watch.close()
    versions = [path.partition("resourceVersion=")[2].partition("&")[0] for path in asked if "watch=true" in path]
    assert versions[:3] == ["5", "7", "9"], "each watch goes on where the one before ended"
    assert asked[0].endswith("pods?labelSelector=app.kubernetes.io/managed-by%3Ddapo")


def test_a_server_that_does_not_tell_of_pods_says_why() -> None:
    with answering(lambda method, path: (403, {"message": "pods is forbidden"})) as (api, _):
        watch = PodWatch(api, "a=b")
        watch.start()
        assert not watch.wait_listed(0.5)
        assert "pods is forbidden" in watch.trouble
        watch.close()
