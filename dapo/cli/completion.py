"""What a shell proposes while a command is typed. Quick, and silent where nothing is known."""

import os
import re
import shlex
from collections.abc import Callable, MutableMapping
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import typer

from dapo.environment import URL_VARIABLE

if TYPE_CHECKING:
    from dapo.client import RunClient

T = TypeVar("T")
_MODE, _WORDS, _AT = "_DAPO_COMPLETE", "COMP_WORDS", "COMP_CWORD"
_FIELD = "_DAPO_COMPLETE_FIELD"
"""Field of `--set field=value` whose value is being typed, where the shell takes that for a word of its own."""
_BREAKS = ("=", ":")
_OVERRIDE = "--set"
_ANSWER_S = 1.0
_CHOICE = re.compile(r"\[.+?\]")
_OPEN_TYPES = ("integer", "number", "text", "any value", "null")


def mend_words(environment: MutableMapping[str, str]) -> None:
    """Bash makes three words of a=b. Join what it has cut, but for the value of a `--set`, which it replaces alone:
    that stays a word, and its field is left in the environment."""
    if environment.get(_MODE) != "complete_bash" or _WORDS not in environment:
        return
    words, at = environment[_WORDS].split("\n"), int(environment[_AT])
    before: list[str] = []
    for word in words[:at]:
        if before and (word in _BREAKS or before[-1].endswith(_BREAKS)):
            before[-1] += word
        else:
            before.append(word)
    current = words[at] if at < len(words) else ""
    if current in _BREAKS:
        before[-1] += current
        current = ""
    if before[-1].endswith("=") and before[-2:-1] == [_OVERRIDE]:
        environment[_FIELD] = before.pop().removesuffix("=")
    # Quotes are as they were typed.
    environment[_WORDS] = "\n".join([*before, current or shlex.quote("")])
    environment[_AT] = str(len(before))


def complete_run(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of the service's runs, newest first. None for what may be a folder: the shell proposes files itself."""
    if os.sep in incomplete:
        return []
    runs = _ask(ctx, lambda client: client.list()) or []
    return [(run["id"], run["state"]) for run in reversed(runs) if run["id"].startswith(incomplete)]


def complete_worker(ctx: typer.Context, incomplete: str) -> list[str]:
    """Workers of the run that have a log."""
    run = ctx.params.get("run")
    return list(_ask(ctx, lambda client: client.logs(run)) or []) if run else []


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Fields of the spec and, behind `field=`, their values."""
    if field := os.environ.get(_FIELD):
        return _values(field)
    field, equals, _ = incomplete.partition("=")
    if equals:
        return [(f"{field}={value}", meaning) for value, meaning in _values(field)]
    found = [path for path in _fields() if path.startswith(field)]
    if len(found) == 1:
        # Two proposals, so that no shell takes the field alone for a finished word.
        return [(f"{found[0]}=", ""), *((f"{found[0]}={value}", meaning) for value, meaning in _values(found[0]))]
    return [(f"{path}=", meaning) for path, (_, meaning) in _fields().items() if path.startswith(field)]


def _fields() -> dict[str, tuple[list[str], str]]:
    """Values, the default first, and meaning of each field that has no name of the user's in its path."""
    from dapo.spec.tree.fields import field_rows

    found: dict[str, tuple[list[str], str]] = {}
    for row in field_rows().values():
        path = _CHOICE.sub("", row.path)
        if "<name>" not in path:
            closed = [one for one in row.type.split(" or ") if one not in _OPEN_TYPES and one[0] not in "[{"]
            default = [row.default] if row.default not in (None, "null", "") else []
            found[path] = list(dict.fromkeys([*default, *closed])), row.meaning
    return found


def _values(field: str) -> list[tuple[str, str]]:
    values, meaning = _fields().get(field, ([], ""))
    return [(value, meaning) for value in values]


def _ask(ctx: typer.Context, question: Callable[["RunClient"], T]) -> T | None:
    """The service's answer; None where it has none within a second."""
    from dapo.client import RunClient, ServiceError

    answers: list[T] = []
    named = {URL_VARIABLE: url} if (url := ctx.params.get("url")) else {}

    def ask() -> None:
        try:
            with RunClient.from_env({**os.environ, **named}) as client:
                answers.append(question(client))
        except ServiceError:
            pass

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    return answers[0] if answers else None
