"""`dapo tokens`: the named tokens of a run service."""

from pathlib import Path
from typing import Annotated

import typer

from dapo.cli.errors import fail
from dapo.cli.output import AsJsonLines, print_rows, print_table
from dapo.tokens import TOKEN_FILE, Scope, TokenError, add_token, read_tokens, revoke_token

tokens = typer.Typer(
    no_args_is_help=True, help="Who may use a run service (dapo serve). It goes by changes at once, without a restart."
)
Folder = Annotated[Path, typer.Option("--state-dir", help="That of the service.")]
FolderThere = Annotated[Path, typer.Option("--state-dir", exists=True, file_okay=False, help="That of the service.")]


@tokens.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose it is, for the audit.")],
    scope: Annotated[Scope, typer.Option(help="read: see runs. run: also start and steer them. admin: also delete.")],
    state_dir: Folder = Path(),
) -> None:
    """Make a token and print it, once: only its hash is kept."""
    try:
        typer.echo(add_token(state_dir / TOKEN_FILE, name, scope))
    except TokenError as error:
        fail(str(error))
    typer.echo("Keep it: it is not shown again. Clients take it from DAPO_API_TOKEN.", err=True)


@tokens.command("list")
def list_tokens(state_dir: FolderThere = Path(), as_json: AsJsonLines = False) -> None:
    """Names, scopes and when they were made."""
    from rich.text import Text

    from dapo.terminal import Column

    try:
        found = read_tokens(state_dir / TOKEN_FILE)
    except TokenError as error:
        fail(str(error))
    if as_json:
        print_rows({"name": one.name, "scope": one.scope, "created_at": one.created_at} for one in found)
        return
    columns = [Column("name", text=True, whole=True), Column("scope", text=True), Column("made", text=True)]
    rows = [[Text(one.name), Text(one.scope), Text(one.created_at)] for one in found]
    print_table(columns, rows, "no tokens")


@tokens.command()
def revoke(name: Annotated[str, typer.Argument(help="Of the token.")], state_dir: FolderThere = Path()) -> None:
    """Take a token back."""
    try:
        revoke_token(state_dir / TOKEN_FILE, name)
    except TokenError as error:
        fail(str(error))
    typer.echo(f"{name} is taken back")
