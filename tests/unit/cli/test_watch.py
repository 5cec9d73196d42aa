"""`dapo runs watch` against a service that breaks off, is away for a while, or is gone for good."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from dapo.cli.display import follow as following
from dapo.cli.main import app
from dapo.contracts.events import SHUT_DOWN

RUN = {
    "id": "r-1", "state": "running", "run_dir": "/r", "message": "", "step": 0, "steps_total": 3, "created_at": "",
    "ledger": {}, "name": "r", "labels": {}, "notes": "", "priority": 0, "queue_position": None,
}  # fmt: skip
PIPELINE = {
    "live": False, "version": None, "groups": {}, "streams": [], "generators": [], "verifiers": None, "learner": None,
    "bottleneck": {"stage": "training", "share": 0.9, "text": "training takes 90 % of a step"},
}  # fmt: skip
STEPS = [{"step": step, "accuracy_mean": step / 10, "time_s": 2.0 * step} for step in (1, 2, 3)]
SERIES = {"step": [1, 2, 3], "columns": {"accuracy_mean": [0.1, 0.2, 0.3], "time_s": [2, 4, 6]}, "units": {}}
BROKEN, AWAY, STOPPING, DAMAGED = "broken", "away", "stopping", "damaged"


def problem(kind: str, detail: str) -> dict[str, Any]:
    return {"type": f"urn:dapo:problem:{kind}", "detail": detail, "problems": []}


class Service(BaseHTTPRequestHandler):
    """Answers each watch as the next of `plan` says: so many events, then a break or an end; or 503 or 500."""

    events: list[tuple[str, str, dict[str, Any]]]
    plan: list[tuple[int, str] | str]
    end: dict[str, Any]
    standing: dict[int, dict[str, Any]]
    """How the run stands after so many watches, where it neither goes on nor is at its `end`."""
    asked: list[str]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path.endswith("/events"):
            query = parse_qs(url.query)
            self._events(query.get("after", [""])[0], follow=query.get("follow") != ["false"])
        elif url.path.endswith("/pipeline"):
            self._answer(200, PIPELINE)
        elif url.path.endswith("/metrics"):
            self._answer(200, {**SERIES, "last_step": 3})
        elif url.path == "/v1/runs/r-1":
            self._answer(200, {**RUN, **self.standing.get(len(self.asked), {} if self.plan else self.end)})
        else:
            self._answer(404, problem("not_found", "there is no such run"))

    def _events(self, after: str, *, follow: bool) -> None:
        self.asked.append(after)
        step = self.plan.pop(0) if follow else (len(self.events), "")
        if step == AWAY:
            return self._answer(503, {})
        if step == STOPPING:
            return self._answer(503, problem("stopping", "the service shuts down"))
        if step == DAMAGED:
            return self._answer(500, problem("unreadable", "events.jsonl:4 is not JSON"))
        count, ending = step
        self.send_response(200)
        self.end_headers()
        behind = [event for event in self.events if not after or event[0] > after]
        for event_id, kind, data in behind[:count]:
            self.wfile.write(f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        if ending == BROKEN:
            self.wfile.write(b"id: 9-0\nevent: st")
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Service]]:
    monkeypatch.setattr(following, "_PAUSE_S", 0.01)
    events = [("1-0", "state", {"state": "starting"}), ("2-0", "state", {"state": "running"})]
    events += [(f"{2 + step['step']}-0", "step", step) for step in STEPS]
    events += [("6-0", "alert", {"message": "look"}), ("7-0", "state", {"state": "succeeded"})]
    end = {"state": "succeeded", "step": 3}
    fresh = type(
        "FreshService", (Service,), {"events": events, "plan": [(9, "")], "end": end, "standing": {}, "asked": []}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), fresh) as server:
        monkeypatch.setenv("DAPO_URL", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fresh
        server.shutdown()


def watch(*options: str, run: str = "r-1") -> Any:
    return CliRunner().invoke(app, ["runs", "watch", run, *options])


def test_each_event_is_a_line_and_the_end_is_told(service: type[Service]) -> None:
    done = watch()
    lines = done.output.splitlines()
    assert done.exit_code == 0, done.output
    assert [line.split("  ")[0] for line in lines if line.startswith("step")] == ["step 1/3", "step 2/3", "step 3/3"]
    assert "alert: look" in lines
    assert lines[-1] == "run r-1 succeeded at step 3 of 3"


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("stopped", 3), ("cancelled", 4)])
def test_the_exit_code_tells_how_the_run_ended(service: type[Service], state: str, code: int) -> None:
    service.end = {"state": state, "message": "no luck"}
    done = watch()
    assert done.exit_code == code
    assert f"run r-1 {state} at step 0 of 3: no luck" in done.output


def test_a_watch_goes_on_behind_the_last_event_where_the_service_breaks_off(service: type[Service]) -> None:
    service.plan = [(3, BROKEN), *([AWAY] * 9), (1, ""), (9, "")]
    done = watch("--json")
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["id"], one["kind"], one["data"]) for one in found] == service.events
    assert [after for before, after in zip(["", *service.asked], service.asked, strict=False) if after != before] == [
        "3-0", "4-0",
    ]  # fmt: skip
    told = [line.partition(". Waiting for it until ")[0].split(": ")[0] for line in done.stderr.splitlines()]
    ended = "the run service ended the watch while the run went on"
    assert told == [ended, "the run service answered 503", ended]


def test_a_service_that_is_gone_is_waited_for_with_a_bound(
    service: type[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dapo.cli.runs.watch.GIVE_UP_S", 0.05)
    service.plan = [(3, BROKEN), *([AWAY] * 1000)]
    done = watch()
    assert done.exit_code == 5
    assert "What became of run r-1 is not known" in done.stderr
    assert "step 1/3" in done.stdout


def test_a_run_whose_service_was_shut_down_is_watched_under_the_next_one(service: type[Service]) -> None:
    stopped = {"state": "stopped", "message": SHUT_DOWN}
    service.plan, service.standing = [(9, ""), (9, ""), (9, "")], {1: stopped, 2: stopped}
    done = watch()
    assert (done.exit_code, service.plan) == (0, []), done.output
    service.plan, service.standing, service.end = [(9, "")], {3: stopped}, stopped
    assert watch().exit_code == 3, "one that nobody has gone on with is not waited for"


def test_a_service_that_shuts_down_is_waited_for_and_one_that_cannot_read_the_run_is_not(
    service: type[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.plan = [STOPPING, (9, "")]
    done = watch()
    assert done.exit_code == 0, done.output
    assert "the service shuts down. Waiting for it until" in done.output
    service.plan = [DAMAGED]
    done = watch()
    assert (done.exit_code, done.stderr) == (2, "error: events.jsonl:4 is not JSON\n")
    monkeypatch.setattr("dapo.cli.runs.watch.GIVE_UP_S", 0.05)
    service.plan = [STOPPING] * 1000
    done = watch()
    assert done.exit_code == 5
    assert "What became of run r-1 is not known" in done.stderr


def test_a_run_that_there_is_not_is_refused_at_once(service: type[Service]) -> None:
    done = watch(run="r-2")
    assert (done.exit_code, done.stderr) == (2, "error: there is no such run\n")


def test_an_interrupt_leaves_the_run_alone_and_says_so(service: type[Service], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dapo.cli.runs.watch.follow", interrupted)
    done = watch()
    assert done.exit_code == 130
    assert "run r-1 goes on (dapo runs stop r-1 ends it)" in done.stderr


@pytest.mark.parametrize("width", [80, 60])
def test_the_state_is_shown_once(service: type[Service], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = watch("--once")
    assert done.exit_code == 0, done.output
    assert service.asked == []
    assert max(map(len, done.output.splitlines())) <= width
    for word in ("run r-1  running", "step 3/3", "0:00:06  left 0:00:00", "0.100 → 0.300", "slowest: training"):
        assert word in done.output
    found = json.loads(watch("--once", "--json").output)
    assert (found["run"], found["pipeline"]) == (RUN, PIPELINE)
    assert found["step"] == {"step": 3, "accuracy_mean": 0.3, "time_s": 6}


def test_show_asks_for_what_there_is_and_tells_the_last_alert(service: type[Service]) -> None:
    service.plan = [AWAY]  # Whoever follows the run hears nothing.
    done = CliRunner().invoke(app, ["runs", "show", "r-1", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {**RUN, "last_alert": {"message": "look"}}
    assert service.plan == [AWAY]
