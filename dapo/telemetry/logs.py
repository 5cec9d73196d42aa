"""Logging of every service on stderr, which a launcher sends to logs/<worker id>.log: lines for people, or JSON."""

import json
import logging
import os
import sys
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime
from typing import Any, Literal, get_args

LogFormat = Literal["text", "json"]
VARIABLE = "DAPO_LOG_FORMAT"
"""Environment variable of every service; `dapo serve --log-format` sets it for its workers."""
_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
_RUN: ContextVar[str] = ContextVar("run", default="")
_CHATTY = ("httpx", "httpcore", "urllib3", "matplotlib")


class BadLogFormat(ValueError):
    """DAPO_LOG_FORMAT is neither text nor json."""


def chosen_format() -> LogFormat:
    """Of DAPO_LOG_FORMAT; text where it is not set. Raises BadLogFormat."""
    found = os.environ.get(VARIABLE) or "text"
    if found not in _FORMATS:
        raise BadLogFormat(f"{VARIABLE} = {found!r} is none: take {' or '.join(_FORMATS)}")
    return found


def about(run: str) -> Context:
    """For the tasks of a service that work for a run: what is logged in it is of that run."""
    context = copy_context()
    context.run(_RUN.set, run)
    return context


class TextFormatter(logging.Formatter):
    """`time level worker logger: message`, and a traceback on lines of its own."""

    def __init__(self, who: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {who} %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (ISO 8601, UTC), `level`, `logger`, `message`, `service`; where there are any,
    `run` and `worker`, `group` of what is about one (`extra={"group": id}`), and `exception`, a traceback."""

    def __init__(self, service: str, run: str = "", worker: str = "") -> None:
        super().__init__()
        of = {"service": service, "run": run, "worker": worker}
        self._of = {name: value for name, value in of.items() if value}

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._of,
        }
        for name, value in (("run", _RUN.get()), ("group", getattr(record, "group", ""))):
            if value:
                found[name] = value
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        # ASCII: whatever the encoding of stderr, and whatever the text, it is one line of JSON.
        return json.dumps(found)


def configure(service: str, run: str = "", worker: str = "", level: int = logging.INFO) -> None:
    """Log to stderr, in the format that the environment asks for, as this worker of a run or as a service of many.
    Replaces handlers of an earlier call. Raises BadLogFormat."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = chosen_format() == "json"
    handler.setFormatter(JsonFormatter(service, run, worker) if as_json else TextFormatter(worker or service))
    # Python's own warnings would be no JSON.
    logging.captureWarnings(as_json)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)


def take_over(*libraries: str) -> None:
    """Loggers of libraries that bring a handler of their own, once they are imported, log as this process does."""
    for name in libraries:
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True


def line(logger: str, message: str) -> str:
    """Of an error, as this process logs, for what cannot go through a handler any more: text is the message alone."""
    record = logging.LogRecord(logger, logging.ERROR, "", 0, message, None, None)
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    found = next((one for one in formatters if isinstance(one, JsonFormatter)), None)
    return message if found is None else found.format(record)


def message_of(text: str) -> str:
    """What a line of a log says, where it is JSON; else the line."""
    found = _parsed(text)
    return text if found is None else str(found["message"])


def readable(text: str) -> str:
    """Lines of a log as people read them: those that are JSON become `time level worker logger: message`."""
    return "\n".join(_readable(one) for one in text.split("\n"))


def _readable(text: str) -> str:
    found = _parsed(text)
    if found is None:
        return text
    who = found.get("worker") or found.get("service", "")
    head = f"{found.get('time', '')} {found.get('level', '')} {who} {found.get('logger', '')}: {found['message']}"
    return f"{head}\n{found['exception']}" if found.get("exception") else head


def _parsed(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "message" in found else None
