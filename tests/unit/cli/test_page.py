"""docs/cli.md names every command, and none that there is not."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from dapo.cli import errors
from dapo.cli.main import app
from tests.support.paths import REPO

PAGE = (REPO / "docs/cli.md").read_text(encoding="utf-8")


def commands(group: Any, above: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


COMMANDS = dict(commands(typer.main.get_command(app), "dapo"))
OF_A_SERVICE = [name for name in COMMANDS if name.startswith("dapo runs") or name == "dapo machine"]


def options(name: str) -> set[str]:
    return {option for one in COMMANDS[name].params for option in (*one.opts, *one.secondary_opts)}


def test_every_command_is_named() -> None:
    assert {name for name in COMMANDS if not re.search(rf"`{name}[` ]", PAGE)} == set()


def test_no_command_is_named_that_there_is_not() -> None:
    named = [" ".join(words.split()) for words in re.findall(r"dapo(?: [a-z][a-z0-9-]*)+", PAGE)]
    assert [words for words in named if not any(f"{words} ".startswith(f"{name} ") for name in COMMANDS)] == []


@pytest.mark.parametrize("name", OF_A_SERVICE)
def test_a_command_of_a_service_has_json_and_the_options_that_its_row_names(name: str) -> None:
    assert {"--json", "--url"} <= options(name)
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{name}" in line]
    if rows[0].count("`dapo") == 1:
        assert set(re.findall(r"`(--[a-z-]+)", rows[0])) <= options(name)


def test_the_exit_codes_are_those_of_the_code() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper()}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == {0, *codes}
