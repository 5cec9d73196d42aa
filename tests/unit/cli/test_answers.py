"""Commands about a run against a service that answers as it is told: what they ask, and what they make of it."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.cli.runs import export
from tests.support.samples import sample
from tests.unit.cli.test_metrics import write_run

EXPORT = {
    "name": "step-3", "step": 3, "dtype": None, "adapter": False, "state": "running", "directory": "/x", "size": 0,
    "files": {}, "problem": "", "warning": "",
}  # fmt: skip


class Answers(BaseHTTPRequestHandler):
    by_path: dict[str, tuple[int, Any]]
    asked: list[str]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path)
        status, body = self.by_path[self.path.partition("?")[0]]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    fresh = type("FreshAnswers", (Answers,), {"by_path": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), fresh) as server:
        monkeypatch.setenv("DAPO_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("COLUMNS", "80")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fresh
        server.shutdown()


def dapo(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def test_an_export_that_was_deleted_while_it_was_waited_for_is_told(
    service: type[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_PAUSE_S", 0.01)
    service.by_path = {"/v1/runs/r/export": (200, EXPORT), "/v1/runs/r/exports": (200, {"exports": []})}
    done = dapo("export", "r")
    assert done.exit_code == 1
    assert "export step-3 is not there any more" in done.stderr


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "unauthorised"), (403, "forbidden"), (429, "too_many_requests"), (500, "unreadable")]
)
@pytest.mark.parametrize("command", [["evaluations"], ["metrics"], ["why", "g1"], ["dead-letters"], ["compare"]])
def test_a_service_that_refuses_is_not_taken_for_one_that_is_gone(
    service: type[Answers], tmp_path: Path, status: int, kind: str, command: list[str]
) -> None:
    refusal = {"type": f"urn:dapo:problem:{kind}", "detail": "for a reason", "problems": []}
    paths = ("", "/evaluations", "/metrics", "/groups/g0000000001", "/dead-letters")
    service.by_path = {f"/v1/runs/a{path}": (status, refusal) for path in paths}
    name, *others = command
    if name == "compare":
        others = [str(write_run(tmp_path, "b", 2))]
    done = dapo(name, write_run(tmp_path, "a", 2), *others)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: for a reason")


def test_a_folder_is_read_where_the_service_does_not_know_the_run_or_is_none(
    service: type[Answers], tmp_path: Path
) -> None:
    run = write_run(tmp_path, "a", 2)
    unknown = {"type": "urn:dapo:problem:not_found", "detail": "there is no run a", "problems": []}
    stopping = {"type": "urn:dapo:problem:stopping", "detail": "the service shuts down", "problems": []}
    for answer in ((404, unknown), (503, stopping), (404, "Not Found"), (502, "Bad Gateway")):
        service.by_path = {"/v1/runs/a/evaluations": answer}
        done = dapo("evaluations", run)
        assert done.exit_code == 0, done.output
        assert "aime-2024" in done.stdout


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], {"limit": "4"}),
        (["--limit", "900"], {"limit": "200"}),
        (["--wrong", "--limit", "1"], {"limit": "1", "verdict": "wrong"}),
        (["--correct", "--prompt", "add"], {"limit": "4", "verdict": "correct", "prompt": "add"}),
        (["--wrong", "--truncated"], {"limit": "200", "verdict": "wrong"}),
        (["--high-variance"], {"limit": "200"}),
        (["--last", "2"], {"limit": "4"}),
        # Which steps are the last does not hang on prompts and verdicts.
        (["--last", "2", "--wrong"], {"limit": "200"}),
        (["--last", "2", "--prompt", "add"], {"limit": "200"}),
    ],
)
def test_a_service_is_asked_for_the_groups_that_are_shown(
    service: type[Answers], options: list[str], asked: dict[str, str]
) -> None:
    groups = [sample(step, step).model_dump() for step in (3, 2)]
    service.by_path = {"/v1/runs/r/samples": (200, {"samples": groups, "cursor": ""})}
    done = dapo("samples", "r", "--json", *options)
    assert done.exit_code == 0, done.output
    (path,) = service.asked
    assert dict(parse_qsl(urlsplit(path).query)) == asked
    shown = [json.loads(line)["step"] for line in done.stdout.splitlines()]
    assert shown == [2, 3][-int(asked["limit"]) :]
