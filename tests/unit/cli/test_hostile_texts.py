"""Texts of a run or its service that would steer a terminal, and what the command line prints of them."""

import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console
from typer import Exit
from typer.testing import CliRunner

from dapo.cli.display.displays import JsonDisplay, LiveDisplay, PlainDisplay
from dapo.cli.display.panel import panel
from dapo.cli.display.picture import RunPicture
from dapo.cli.main import app
from dapo.cli.runs.export import _copy
from dapo.cli.train import _report
from dapo.client import Run, RunEvent
from dapo.contracts.events import WAITING

EVIL = "PWN\x1b]0;title\x07\x1b[2J\u202eé"
SHOWN = "PWN\\x1b]0;title\\x07\\x1b[2J\\u202eé"
RUN = {
    "id": "r-1", "state": "failed", "run_dir": f"/r/{EVIL}", "message": EVIL, "step": 0, "steps_total": 3,
    "created_at": EVIL, "ledger": {}, "name": EVIL, "labels": {"k": EVIL}, "notes": EVIL, "priority": 0,
    "queue_position": None,
}  # fmt: skip
PIPELINE = {
    "live": True, "version": None, "groups": {}, "streams": [], "verifiers": None, "learner": None,
    "generators": [{"id": EVIL, "state": EVIL, "version": None, "running": 0, "busy_share": None}],
    "bottleneck": {"stage": EVIL, "share": 0.9, "text": EVIL},
}  # fmt: skip
SERIES = {"step": [], "columns": {}, "units": {}, "last_step": 0}
EXPORT = {
    "name": EVIL, "step": 3, "dtype": None, "adapter": False, "state": "failed", "directory": EVIL, "size": 0,
    "files": {}, "problem": EVIL, "warning": EVIL,
}  # fmt: skip
EVALUATION = {
    "set": EVIL, "step": 1, "samples": 1, "problems": 4, "failed_problems": 0,
    "avg_at_k": {"value": 0.5, "low": 0.4, "high": 0.6}, "pass_at_k": {"1": {"value": 0.5, "low": 0.4, "high": 0.6}},
    "maj_at_k": None, "version_min": 1, "version_max": 1, "truncated_share": 0.0,
}  # fmt: skip
EVENTS = [("alert", {"cause": "disk", "message": EVIL}), ("state", {"state": "failed", "message": EVIL})]
LETTER = {"at": EVIL, "group": EVIL, "reason": EVIL, "explanation": EVIL, "detail": EVIL, "id": EVIL}
EXPLANATION = {
    "group_id": "g0000000012", "state": EVIL, "row_id": EVIL, "grader": EVIL, "issued_version": 0, "prompt": EVIL,
    "gold": EVIL, "reason": EVIL, "evaluation": None, "epoch": 0, "cursor": 0, "group_size": 1, "deliveries": 1,
    "batch": None, "step": None, "requeued_from": EVIL, "requeued_as": EVIL, "failure": None,
    "happenings": [], "happenings_lost": 0,
    "missing": [], "responses": [], "holders": [],
}  # fmt: skip


class Hostile(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path.partition("?")[0].removeprefix("/v1/runs").removeprefix("/r-1").removeprefix("/r-2")
        run = {**RUN, "id": "r-2"} if self.path.startswith("/v1/runs/r-2") else RUN
        if self.path.startswith("/v1/runs?") or self.path == "/v1/runs":
            self._answer({"runs": [run], "next": None})
        elif found == "/events":
            rows = (
                f"id: {at}-0\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for at, (kind, data) in enumerate(EVENTS)
            )
            self._send(200, "".join(rows).encode())
        elif found.startswith("/logs/"):
            self._send(200, f"{EVIL}\n".encode())
        elif found in self._reads(run):
            self._answer(self._reads(run)[found])
        else:
            self._answer({"type": "urn:dapo:problem:not_found", "detail": f"no {EVIL}", "problems": []}, 404)

    def do_POST(self) -> None:
        if self.path.endswith("/export"):
            self._answer(EXPORT)
        elif self.path.endswith("/resume"):
            self._answer(RUN)
        else:
            self._send(500, f"{EVIL}".encode())

    def _reads(self, run: dict[str, Any]) -> dict[str, Any]:
        return {
            "": run,
            "/pipeline": PIPELINE,
            "/metrics": SERIES,
            "/spec": {"yaml": json.dumps({"name": f"{run['id']} {EVIL}", "steps": 1})},
            "/evaluations": {"evaluations": [EVALUATION]},
            "/exports": {"exports": [EXPORT]},
            "/checkpoints": {"checkpoints": [{"step": 1, "size": 1, "directory": EVIL, "damage": EVIL}]},
            "/logs": {"workers": [EVIL]},
            "/dead-letters": {"letters": [LETTER]},
            "/groups/g0000000012": EXPLANATION,
        }

    def _answer(self, body: Any, status: int = 200) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        monkeypatch.setenv("DAPO_URL", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield
        server.shutdown()


COMMANDS = {
    "list": "runs list",
    "show": "runs show r-1",
    "watch": "runs watch r-1",
    "watch once": "runs watch r-1 --once",
    "export": "runs export r-1",
    "exports": "runs exports r-1",
    "checkpoints": "runs checkpoints r-1",
    "evaluations": "runs evaluations r-1",
    "compare": "runs compare r-1 r-2",
    "logs": "runs logs r-1",
    "log": "runs logs r-1 learner-0",
    "resume": "runs resume r-1",
    "dead letters": "runs dead-letters r-1",
    "why": "runs why r-1 g12",
    "refused": "runs show unknown",
    "failed": "runs purge r-1",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_them_harmlessly(hostile: None, name: str) -> None:
    done = CliRunner().invoke(app, COMMANDS[name].split(), env={"COLUMNS": "200"})
    assert "PWN" in done.output, (done.output, done.exception)
    assert not set("\x1b\x07\u202e") & set(done.output)


@pytest.mark.parametrize("name", ["list", "show", "watch", "watch once", "export", "exports", "compare", "dead letters",
                                  "why", "logs", "log", "checkpoints", "evaluations", "resume"])  # fmt: skip
def test_json_is_ascii_on_every_path(hostile: None, name: str) -> None:
    done = CliRunner().invoke(app, [*COMMANDS[name].split(), "--json"])
    assert "PWN" in done.stdout, (done.output, done.exception)
    assert all(json.loads(line) for line in done.stdout.splitlines())
    assert done.stdout.isascii()


def test_a_display_shows_them_harmlessly_wherever_they_come_from() -> None:
    for state in ("queued", "running"):
        out = io.StringIO()
        picture = RunPicture("r-1", 9)
        display = PlainDisplay(Console(file=out, width=400), picture)
        display.snapshot(Run(**{**RUN, "state": state, "queue_position": 1}), PIPELINE)
        display.event(RunEvent("1-0", "alert", {"kind": WAITING, "message": EVIL}))
        display.note(EVIL)
        Console(file=out, width=400).print(panel(picture, 400, 1.0), panel(picture, 400, 1.0, EVIL))
        assert out.getvalue().count("PWN") >= 4
        assert not set("\x1b\x07\u202e") & set(out.getvalue())


def test_the_panel_of_a_terminal_keeps_titles_and_screens_as_they_are() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    picture = RunPicture("r-1", 9)
    with LiveDisplay(console, picture) as display:
        display.event(RunEvent("1-0", "alert", {"kind": WAITING, "message": EVIL}))
        display.snapshot(Run(**{**RUN, "state": "running"}), PIPELINE)
        display.note(EVIL)
    assert SHOWN in out.getvalue()
    assert not [code for code in ("\x1b]0;", "\x1b[2J") if code in out.getvalue()]


def test_a_note_beside_json_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    JsonDisplay().note(EVIL)
    assert capsys.readouterr().err == f"{SHOWN}\n"


def test_the_last_words_of_a_training_are_harmless(tmp_path: Path) -> None:
    out = io.StringIO()
    _report(Run(**RUN), None, tmp_path, Console(file=out))
    assert f"run r-1 failed: {SHOWN}" in out.getvalue().replace("\n", "")


SUCCEEDED = {**EXPORT, "name": "step-3", "state": "succeeded", "problem": "", "files": {"a/b": 1}}


class Files:
    """What comes of an export, or breaks off."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def export_file(self, *_: str) -> Iterator[bytes]:
        yield self._data


@pytest.mark.parametrize(("data", "there"), [(b"x", {"out/a/b"}), (b"too much", set())])
def test_a_copied_export_leaves_what_lies_beside_it_alone(tmp_path: Path, data: bytes, there: set[str]) -> None:
    mine = tmp_path / "new" / ".out.partial" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    client: Any = Files(data)
    with nullcontext() if there else pytest.raises(Exit):
        _copy(client, "r-1", SUCCEEDED, tmp_path / "new" / "out")
    found = {str(path.relative_to(tmp_path / "new")) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {".out.partial/mine"} | there
    assert len(list((tmp_path / "new").iterdir())) == 1 + bool(there)


def test_a_copied_export_is_as_readable_as_any_new_folder(tmp_path: Path) -> None:
    client: Any = Files(b"x")
    _copy(client, "r-1", SUCCEEDED, tmp_path / "above" / "out")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "above" / "out").stat().st_mode == (tmp_path / "other").stat().st_mode
