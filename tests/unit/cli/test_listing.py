"""What `dapo runs list` and `show` print."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app

RUN = {"run_dir": "/r", "step": 3, "steps_total": 300, "created_at": "", "ledger": {}, "name": "struck", "notes": ""}
RUNS = [
    {
        **RUN,
        "id": f"struck-20261126-20110{number}-d50c",
        "state": "queued",
        "message": "3 of 3 runs are under way, and this one comes after two others that are of higher priority",
        "labels": {"team": "math", "owner": "somebody"},
        "priority": 1,
        "queue_position": number,
    }
    for number in (1, 2)
]
EVENTS = [
    ("alert", {"message": "few groups are kept"}),
    ("alert", {"kind": "resumed", "message": "the run goes on behind step 4", "severity": "notice"}),
    ("state", {"state": "succeeded"}),
]

SHARE = {"total": 4, "free": 1}
AGENT = {"role": "verifier", "host": "box", "gpus": 0, "release": "0.1.0", "run_id": "", "worker_id": ""}
MACHINE = {
    **dict.fromkeys(("gpus", "cores", "memory"), SHARE),
    "runs": {"most": None, "under_way": 1},
    "queue": [],
    "agents": [{**AGENT, "id": "box-1", "run_id": "r-1", "worker_id": "verifier-0"}, {**AGENT, "id": "box-2"}],
}


class Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if self.path.split("?")[0].endswith("/events"):
            for at, (kind, data) in enumerate(EVENTS):
                self.wfile.write(f"id: {at + 1}-0\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        else:
            ended = {**RUNS[0], "state": "succeeded", "queue_position": None}
            if self.path == "/v1/machine":
                ended = MACHINE
            found = {"runs": RUNS, "next": None} if self.path.split("?")[0] == "/v1/runs" else ended
            self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        monkeypatch.setenv("DAPO_URL", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield
        server.shutdown()


def listed(**env: Any) -> list[str]:
    done = CliRunner().invoke(app, ["runs", "list"], env=env)
    assert done.exit_code == 0, done.output
    return [line.rstrip() for line in done.stdout.splitlines()]


def test_into_a_pipe_each_run_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = listed()
    assert len(lines) == 1 + len(RUNS)
    for line, run in zip(lines[1:], RUNS, strict=True):
        assert line.startswith(f"{run['id']} queued #{run['queue_position']}")
        assert line.endswith(str(run["message"]))


@pytest.mark.parametrize("columns", ["50", "80"])
def test_no_id_is_wrapped_however_narrow(columns: str) -> None:
    text = "\n".join(listed(COLUMNS=columns))
    assert all(str(run["id"]) in text for run in RUNS)


def test_the_last_alert_is_none_that_only_says_how_the_run_gets_on() -> None:
    done = CliRunner().invoke(app, ["runs", "show", str(RUNS[0]["id"]), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["last_alert"] == {"message": "few groups are kept"}


def test_agents_are_listed_with_their_workers() -> None:
    done = CliRunner().invoke(app, ["machine"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines() if "box-" in line]
    assert rows == [
        ["box-1", "verifier", "box", "0.1.0", "0", "verifier-0", "of", "r-1"],
        ["box-2", "verifier", "box", "0.1.0", "0"],
    ]
