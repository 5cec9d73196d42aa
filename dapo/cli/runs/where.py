"""Where a run of the command line is asked: RUN is a folder, or the id of a run of a service."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from dapo.cli.errors import RUN_ERROR, fail
from dapo.client import TOKEN_VARIABLE, RefusedRequest, RunClient, ServiceError
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, read_identity

T = TypeVar("T")
_GROUP = re.compile(r"([ge]?)(\d{1,10})")


class RunPlace(NamedTuple):
    """Where a run is asked, as far as there is such a place."""

    run_id: str
    url: str
    """Of its service; empty: none is known."""
    token: str
    folder: Path | None

    def ask(self, question: Callable[[RunClient, str], T]) -> T:
        """Put a question to the service. Raises ServiceError, RefusedRequest."""
        with RunClient(self.url, self.token) as client:
            return question(client, self.run_id)

    def ask_or(self, question: Callable[[RunClient, str], T], otherwise: Callable[[Path], T]) -> T:
        """The service's answer or, where there is a folder and the service is gone or does not know, what that says.

        Leaves with a message where neither knows.
        """
        if self.url:
            try:
                return self.ask(question)
            except RefusedRequest as error:
                if self.folder is None:
                    fail(str(error))
            except ServiceError as error:
                if self.folder is None:
                    fail(f"{self.url}: {error}", RUN_ERROR)
        assert self.folder is not None
        return otherwise(self.folder)


def find_run(run: str, url: str | None) -> RunPlace:
    """`url`: of the service that was named, if one was. Leaves with a message where there is nobody to ask."""
    folder = Path(run)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not folder.is_dir():
        if url:
            return RunPlace(run, url, token, None)
        fail(
            f"there is no run folder {run}. Give the folder of a run (runs/<id>), or the id of a run with "
            f"--url http://HOST:PORT of its service (or DAPO_URL)"
        )
    try:
        run_id = read_identity(folder).run_id
    except RunDirError as error:
        fail(str(error))
    if not url:
        url, token = _notice(folder)
    return RunPlace(run_id, url, token, folder)


def _notice(folder: Path) -> tuple[str, str]:
    """URL and token that a `dapo train` has left, which may have been killed since."""
    try:
        notice = json.loads(RunFolder(folder).service.read_text(encoding="utf-8"))
        return notice["url"], notice["token"]
    except (FileNotFoundError, PermissionError, ValueError, KeyError):
        return "", ""


def full_group_id(group: str) -> str:
    """`12`, `g12` and `g0000000012` are one group. Leaves with a message for what is none."""
    match = _GROUP.fullmatch(group)
    if match is None:
        fail(f"{group!r} is no group: give its id, e.g. g0000000012, or g12")
    return f"{match[1] or 'g'}{int(match[2]):010d}"
