"""Where a run of the command line is asked: RUN is its folder or its id, `--url` names its service."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from dapo.cli.errors import RUN_ERROR, fail

if TYPE_CHECKING:
    from dapo.client import RunClient

T = TypeVar("T")
URL_VARIABLE = "DAPO_URL"
DEFAULT_URL = "http://127.0.0.1:8400"
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, or its folder.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=URL_VARIABLE,
        help=f"Of the run service (dapo serve); else the one that the run's folder names, else {DEFAULT_URL}.",
    ),
]
_GROUP = re.compile(r"([ge]?)(\d{1,10})")


@contextmanager
def service(url: str, token: str, beside: str = "") -> Iterator["RunClient"]:
    """Its client; leaves with a sentence where it refuses or does not answer. `beside`: what else is known then."""
    from dapo.client import RefusedRequest, RunClient, ServiceError

    try:
        with RunClient(url, token) as client:
            yield client
    except RefusedRequest as error:
        fail(str(error))
    except ServiceError as error:
        fail(f"{error} (at {url}; --url or {URL_VARIABLE} says where it is){beside}", RUN_ERROR)


class RunPlace(NamedTuple):
    """Where a run is asked."""

    run_id: str
    url: str
    """Of its service, if there is one."""
    token: str
    folder: Path | None

    def ask(self, question: Callable[["RunClient", str], T]) -> T:
        """The service's answer. Leaves with a message where it refuses or does not answer."""
        beside = "" if self.folder else f", and there is no folder {self.run_id}"
        with service(self.url, self.token, beside) as client:
            return question(client, self.run_id)

    def ask_or(self, question: Callable[["RunClient", str], T], otherwise: Callable[[Path], T]) -> T:
        """The service's answer or, where there is a folder and the service is gone or does not know, what that says.

        Leaves with a message where neither knows.
        """
        from dapo.client import RunClient, ServiceError

        if self.folder is None:
            return self.ask(question)
        try:
            with RunClient(self.url, self.token) as client:
                return question(client, self.run_id)
        except ServiceError:
            return otherwise(self.folder)


def find_service(url: str | None) -> tuple[str, str]:
    """URL and token of the service that was named, or of the one that is looked for without a name."""
    from dapo.client import TOKEN_VARIABLE

    return url or DEFAULT_URL, os.environ.get(TOKEN_VARIABLE, "")


def find_run(run: str, url: str | None) -> RunPlace:
    """`url`: of the service that was named, if one was. Leaves with a message for a folder that holds no run."""
    from dapo.records.identity import RunDirError, read_identity

    folder = Path(run)
    if not folder.is_dir():
        if os.sep in run:
            fail(f"there is no run folder {run}. Give the folder of a run (runs/<id>), or its id")
        return RunPlace(run, *find_service(url), None)
    try:
        run_id = read_identity(folder).run_id
    except RunDirError as error:
        fail(str(error))
    address = (None if url else _notice(folder)) or find_service(url)
    return RunPlace(run_id, *address, folder)


def _notice(folder: Path) -> tuple[str, str] | None:
    """URL and token that a `dapo train` has left, which may have been killed since."""
    from dapo.records.folder import RunFolder

    try:
        notice = json.loads(RunFolder(folder).service.read_text(encoding="utf-8"))
        return notice["url"], notice["token"]
    except (FileNotFoundError, PermissionError, ValueError, KeyError):
        return None


def full_group_id(group: str) -> str:
    """`12`, `g12` and `g0000000012` are one group. Leaves with a message for what is none."""
    match = _GROUP.fullmatch(group)
    if match is None:
        fail(f"{group!r} is no group: give its id, e.g. g0000000012, or g12")
    return f"{match[1] or 'g'}{int(match[2]):010d}"
