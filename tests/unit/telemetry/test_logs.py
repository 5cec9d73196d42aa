"""Logs as lines for people and as JSON, and what others read in them."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.telemetry import logs
from dapo.worker import LAST_WORDS, last_words
from services.orchestrator.__main__ import _arguments
from services.orchestrator.launch.launcher import LogTail
from services.orchestrator.runs.monitor import _changed
from tests.support.paths import REPO

log = logging.getLogger("somewhere")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def last(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().err.splitlines()
    return json.loads(line)


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")


def test_text_names_the_worker_or_else_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("generator", "r-1", "generator-3")
    log.info("hello")
    logs.configure("orchestrator")
    log.info("hello")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("INFO    generator-3 somewhere: hello")
    assert second.endswith("INFO    orchestrator somewhere: hello")


def test_json_says_who_when_and_what(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("generator", "r-1", "generator-0")
    log.warning("group %s: two\nlines → “here”", "g0000000001", extra={"group": "g0000000001"})
    found = last(capsys)
    when = datetime.fromisoformat(found.pop("time"))
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert when.utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert found == {
        "level": "WARNING",
        "logger": "somewhere",
        "message": "group g0000000001: two\nlines → “here”",
        "service": "generator",
        "run": "r-1",
        "worker": "generator-0",
        "group": "g0000000001",
    }


def test_a_traceback_and_a_warning_of_python_are_in_the_object(
    as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("generator", "r-1", "generator-0")
    try:
        raise KeyError("gone")
    except KeyError:
        log.exception("it failed")
    found = last(capsys)
    assert found["exception"].endswith("KeyError: 'gone'")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    assert last(capsys)["logger"] == "py.warnings"


def test_a_library_that_brings_a_handler_logs_as_all_others_do(as_json: None, capsys: Any) -> None:
    logs.configure("learner", "r-1", "learner-0")
    library = logging.getLogger("SomeLibrary")
    library.addHandler(logging.StreamHandler(sys.stdout))
    library.propagate = False
    logs.take_over("SomeLibrary")
    library.warning("hello")
    found = capsys.readouterr()
    assert found.out == ""
    assert json.loads(found.err)["message"] == "hello"


def test_tasks_of_a_run_say_so_and_no_others(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    logs.configure("orchestrator")

    async def say() -> None:
        log.info("one")
        await asyncio.create_task(_say())

    async def _say() -> None:
        log.info("two")

    async def main() -> None:
        await asyncio.create_task(say(), context=logs.about("r-7"))
        log.info("three")

    asyncio.run(main())
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["message"], line.get("run")) for line in lines] == [("one", "r-7"), ("two", "r-7"), ("three", None)]


@given(text=st.text(max_size=60))
def test_every_message_is_one_line_that_comes_back(text: str) -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s", (text,), None)
    line = logs.JsonFormatter("verifier").format(record)
    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line)["message"] == text


def test_the_last_words_of_a_worker_are_found_in_both_formats(as_json: None) -> None:
    logs.configure("generator", "r-1", "generator-0")
    said = logs.line("dapo.worker", f"{LAST_WORDS}the disk is full")
    assert json.loads(said)["worker"] == "generator-0"
    assert last_words(said) == last_words(f"{LAST_WORDS}the disk is full") == "the disk is full"
    assert last_words('{"message": "all is well"}') is None
    assert last_words("{no json") is None
    assert last_words("[1]") is None


def test_people_are_shown_text_where_the_log_is_json(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("generator", "r-1", "generator-0")
    log.error("it ends")
    tail = f"started\n{capsys.readouterr().err.rstrip()}\n{{odd"
    first, second, third = logs.readable(tail).splitlines()
    assert (first, third) == ("started", "{odd")
    assert second.endswith("ERROR generator-0 somewhere: it ends")
    status = SimpleNamespace(worker_id="generator-0", code=1)
    assert _changed(status, "ended", "r", LogTail("x.log", tail)).log_end == logs.readable(tail)  # type: ignore[arg-type]


def test_a_format_that_there_is_not_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(logs.VARIABLE, "xml")
    with pytest.raises(logs.BadLogFormat, match="DAPO_LOG_FORMAT = 'xml' is none: take text or json"):
        logs.configure("learner")
    with pytest.raises(SystemExit):
        _arguments(["--log-format", "xml"])
    assert "--log-format" in capsys.readouterr().err
    worker = {"DAPO_RUN_ID": "r", "DAPO_RUN_DIR": "d", "DAPO_WORKER_ID": "verifier-0", "DAPO_REDIS_URL": "redis://x"}
    done = subprocess.run(
        [sys.executable, "-m", "services.verifier"],
        env={**os.environ, **worker, "PYTHONPATH": str(REPO), logs.VARIABLE: "xml"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "error: DAPO_LOG_FORMAT = 'xml' is none: take text or json\n")
