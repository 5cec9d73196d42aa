"""Where a run of the command line is asked: RUN is its folder or its id, `--url` names its service."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from dapo.cli.completion import complete_run
from dapo.cli.errors import LOST, fail
from dapo.environment import DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE
from dapo.host.storage import in_words
from dapo.redaction import redact_url

if TYPE_CHECKING:
    from dapo.client import RunClient

T = TypeVar("T")
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of the run, or its folder.", autocompletion=complete_run)
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=URL_VARIABLE,
        help=f"Of the run service (dapo serve); else the one that the run's folder names, else {DEFAULT_URL}.",
    ),
]
_WITHOUT_ANSWER = (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
"""Of a service that does not know the run, or cannot answer yet."""
_GROUP = re.compile(r"([ge]?)(\d{1,10})")


@contextmanager
def service(url: str, token: str, beside: str = "") -> Iterator["RunClient"]:
    """Its client; leaves with a sentence where it refuses or does not answer. `beside`: what else is known then."""
    from dapo.client import ClientTls, RefusedRequest, RunClient, ServiceError, SettingsError

    try:
        with RunClient(url, token, ClientTls.of(os.environ)) as client:
            yield client
    except SettingsError as error:
        fail(str(error))
    except ServiceError as error:
        if isinstance(error, RefusedRequest) and error.status != HTTPStatus.SERVICE_UNAVAILABLE:
            fail(str(error))
        fail(f"{error} (at {redact_url(url)}; --url or {URL_VARIABLE} says where it is){beside}", LOST)


class RunPlace(NamedTuple):
    """Where a run is asked."""

    run_id: str
    url: str
    """Of its service, if there is one."""
    token: str
    folder: Path | None

    def client(self) -> AbstractContextManager["RunClient"]:
        """Of its service. Leaves with a message where that refuses or does not answer."""
        beside = "" if self.folder else f", and there is no folder {self.run_id}"
        return service(self.url, self.token, beside)

    def ask(self, question: Callable[["RunClient", str], T]) -> T:
        """The service's answer. Leaves with a message where it refuses or does not answer."""
        with self.client() as client:
            return question(client, self.run_id)

    def ask_or(self, question: Callable[["RunClient", str], T], otherwise: Callable[[Path], T]) -> T:
        """The service's answer or, where there is a folder and the service is gone or does not know, what that says.

        Leaves with a message where neither knows, or the service refuses: the folder may say less.
        """
        from dapo.client import ClientTls, RefusedRequest, RunClient, ServiceError, SettingsError

        if self.folder is None:
            return self.ask(question)
        try:
            with RunClient(self.url, self.token, ClientTls.of(os.environ), repeat=False) as client:
                return question(client, self.run_id)
        except SettingsError as error:
            fail(str(error))
        except ServiceError as error:
            if isinstance(error, RefusedRequest) and error.status not in _WITHOUT_ANSWER:
                fail(str(error))
            try:
                return otherwise(self.folder)
            except (OSError, ValueError) as error:
                fail(f"a file of the run cannot be read: {error}")


def find_service(url: str | None) -> tuple[str, str]:
    """URL and token of the service that was named, or of the one that is looked for without a name."""
    return url or DEFAULT_URL, os.environ.get(TOKEN_VARIABLE, "")


def is_folder(run: str) -> bool:
    """False for what cannot be the name of one, too: Path.is_dir raises OSError where it is too long."""
    return os.path.isdir(run)


def find_run(run: str, url: str | None) -> RunPlace:
    """`url`: of the service that was named, if one was. Leaves with a message for a folder that holds no run."""
    from dapo.records.identity import RunDirError, read_identity

    folder = Path(run)
    if not is_folder(run):
        if os.sep in run:
            fail(f"there is no run folder {run}. Give the folder of a run (runs/<id>), or its id")
        return RunPlace(run, *find_service(url), None)
    try:
        run_id = read_identity(folder).run_id
    except RunDirError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{folder} cannot be read: {in_words(error)}")
    address = (None if url else _notice(folder)) or find_service(url)
    return RunPlace(run_id, *address, folder)


def _notice(folder: Path) -> tuple[str, str] | None:
    """URL and token that a `dapo train` has left, which may have been killed since."""
    from dapo.records.folder import RunFolder
    from dapo.records.json_lines import read_json_object

    try:
        notice = read_json_object(RunFolder(folder).service)
    except (OSError, ValueError):
        return None
    url, token = notice.get("url"), notice.get("token")
    return (url, token) if isinstance(url, str) and isinstance(token, str) else None


def full_group_id(group: str) -> str:
    """`12`, `g12` and `g0000000012` are one group. Leaves with a message for what is none."""
    match = _GROUP.fullmatch(group)
    if match is None:
        fail(f"{group!r} is no group: give its id, e.g. g0000000012, or g12")
    return f"{match[1] or 'g'}{int(match[2]):010d}"
