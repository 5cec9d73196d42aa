"""`dapo data`: look at a dataset, and write a cleaned copy of it. Imports of substance happen inside the commands."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dapo.cli.data.golds import GraderName, SpecPath, gold_check
from dapo.cli.errors import fail
from dapo.host.storage import in_words

if TYPE_CHECKING:
    from dapo.data.source import Source
    from dapo.data.tokens import PromptTokens

data = typer.Typer(no_args_is_help=True, help="Look at datasets and clean them.")

Item = TypeVar("Item")

DataPath = Annotated[str, typer.Argument(metavar="PATH", help="A .jsonl or .parquet file, a folder, or a hub name.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A field of `data` in a spec (docs/data.md), e.g. gold_field=solution, chat=true, split=test.",
    ),
]
Model = Annotated[str | None, typer.Option(help="Model directory or hub name, whose tokenizer counts tokens.")]


@data.command()
def inspect(
    path: DataPath,
    settings: Settings = None,
    model: Model = None,
    grader: GraderName = None,
    spec: SpecPath = None,
    rows: Annotated[int, typer.Option(min=0, help="Samples to show.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a dataset's schema, problems, answers that cannot be met, lengths and a few rows."""
    from dapo.cli.data import report
    from dapo.data import DatasetError, inspection

    try:
        source = _open(path, settings, model)
        items = _track(source.scan(), len(source), "reading")
        with gold_check(grader, spec) as check:
            found = inspection.inspect(source, items, _counter(model), rows, check)
    except DatasetError as error:
        fail(str(error))
    if as_json:
        report.print_json(found)
    else:
        report.print_inspection(found)


@data.command()
def prepare(
    path: DataPath,
    out: Annotated[Path, typer.Argument(help="The .jsonl or .parquet file to write.")],
    settings: Settings = None,
    model: Model = None,
    grader: GraderName = None,
    spec: SpecPath = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Leave out longer prompts, by the tokenizer of --model.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.99, metavar="SHARE", help="Share of the prompts for OUT's .held-out file.")
    ] = 0.0,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Leave out prompts that this dataset has. May be repeated.")
    ] = None,
    keep_duplicates: Annotated[bool, typer.Option("--keep-duplicates", help="Leave repeated prompts in.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a cleaned copy: no malformed rows, no gold answers that cannot be met, no repeated prompts, none that is
    too long or held out."""
    from dapo.cli.data import report
    from dapo.data import DatasetError, preparation

    if (model is None) != (max_prompt_tokens is None):
        fail("--model and --max-prompt-tokens go together: the one counts for the other")
    try:
        source = _open(path, settings, model)
        excluded, also_read = _excluded(exclude or [])
        items = _track(source.scan(), len(source), "preparing")
        with gold_check(grader, spec) as check:
            filters = preparation.Filters(keep_duplicates, excluded, _counter(model), max_prompt_tokens, check)
            done = preparation.prepare(source, items, out, filters, held_out=held_out, also_read=also_read, force=force)
    except DatasetError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{out} cannot be written: {in_words(error, out)}")
    if as_json:
        report.print_json(done)
    else:
        report.print_preparation(done, out, preparation.held_out_path(out), source.fields)


def _open(path: str, settings: list[str] | None, model: str | None) -> "Source":
    """The source; what its settings have no effect on with this model is said on stderr."""
    from dapo.data.source import Source
    from dapo.spec.checks.data import unused_template_arguments
    from dapo.spec.load import build_spec
    from dapo.spec.problem import SpecError
    from dapo.spec.tree.data import RowsSpec

    allowed = [name for name in RowsSpec.model_fields if name != "path"]
    for setting in settings or []:
        if setting.partition("=")[0].partition(".")[0] not in allowed:
            fail(f"--set {setting}: write it as field=value; the fields are {', '.join(allowed)}")
    tree = {"model": {"path": model or "."}, "data": {"path": path}}
    try:
        spec = build_spec(tree, [f"data.{setting}" for setting in settings or []])
    except SpecError as error:
        fail(str(error))
    for warning in unused_template_arguments(spec) if model is not None else ():
        typer.echo(f"warning: {warning}", err=True)
    [(name, source)] = spec.data.named_sources.items()
    return Source(source, name)


def _excluded(paths: list[str]) -> tuple[frozenset[bytes], list[Path]]:
    """(hashes of the prompts, files that they were read from)."""
    from dapo.data import open_source

    datasets = [open_source(_open(path, None, None).spec, path) for path in paths]
    files = [file for dataset in datasets for source in dataset.sources for file in source.table.files]
    return frozenset().union(*(dataset.prompt_hashes() for dataset in datasets)), files


def _counter(model: str | None) -> "PromptTokens | None":
    from dapo.data.tokens import PromptTokens

    return None if model is None else PromptTokens(model)


def _track(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """The same items with a progress bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, what, total=total, console=console, transient=True, disable=not console.is_terminal)
