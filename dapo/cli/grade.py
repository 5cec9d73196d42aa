"""`dapo grade`: try a grader on rows of your own, in the processes that grade in training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dapo.cli.children import become_module
from dapo.cli.errors import fail
from dapo.cli.rules import rules_arguments, spec_of_rules

if TYPE_CHECKING:
    from dapo.spec import RunSpec
    from dapo.spec.tree.graders import AnyGrader


_EXAMPLES = {
    "pattern": "'pattern=#### (.*)'",
    "url": "url=http://judge:8000/v1",
    "model": "model=NAME",
    "rubric": "'rubric=1 where …, else 0'",
    "function": "function=my_module:my_function",
    "parts": "'parts={exact: 1}'",
}
"""Of the options that have no default, as a shell takes them."""


def grade(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows as .jsonl; - reads standard input.")],
    grader: Annotated[
        str | None, typer.Option(help="Name of the grader, e.g. math_verify; default: the spec's `reward.grader`.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="Spec whose `reward.graders` may be named.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the grader, e.g. digits=3. May be repeated."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line; the summary goes to stderr.")
    ] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Grading processes; default 2.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one verdict; default 2.")] = None,
    response_field: Annotated[str, typer.Option(help="Field of the response; dots reach into objects.")] = "response",
    gold_field: Annotated[str, typer.Option(help="Field of the gold answer.")] = "gold",
    correct_field: Annotated[
        str, typer.Option(help="Field of a verdict to compare with, where a row has it.")
    ] = "correct",
    prompt_field: Annotated[
        str, typer.Option(help="Field of the question, which `judge` and `remote` read.")
    ] = "prompt",
    malformed_limit: Annotated[int, typer.Option(min=0, help="Malformed rows that are set aside.")] = 100,
) -> None:
    """Grade responses against gold answers, and compare with `correct` where the rows have it."""
    if file != "-" and not (Path(file).is_file() or Path(file).is_fifo()):
        fail(f"{file} is no file or pipe. Give a .jsonl file of rows with {response_field!r} and {gold_field!r}, or -")
    arguments = rules_arguments(_resolve(grader, spec, options or [], processes, timeout))
    arguments += ["--response-field", response_field, "--gold-field", gold_field, "--correct-field", correct_field]
    arguments += ["--prompt-field", prompt_field, "--malformed-limit", str(malformed_limit)]
    become_module("services.verifier.tools.grade", *arguments, *(["--json"] if as_json else []), "--", file)


def _resolve(
    grader: str | None, path: Path | None, options: Sequence[str], processes: int | None, timeout: float | None
) -> "RunSpec":
    if path is None and grader is None:
        fail("name a grader with --grader, e.g. --grader math_verify, or a spec with --spec")
    overrides = []
    if grader is not None:
        _require_options(grader, path, options)
        overrides.append(f"reward.grader={grader}")
    if processes is not None:
        overrides.append(f"reward.grader_processes={processes}")
    if timeout is not None:
        overrides.append(f"reward.grader_timeout_s={timeout}")
    if options:
        overrides += _option_overrides(grader, path, options)
    return spec_of_rules(path, overrides)


def _option_overrides(grader: str | None, path: Path | None, options: Sequence[str]) -> list[str]:
    """Options change the spec's grader of that name, or else define one of that type. Texts are taken as they are."""
    if grader is None or not grader.isidentifier():
        fail("--option needs --grader with a name or a type, e.g. --grader regex --option 'pattern=#### (.*)'")
    known = _named(grader, path)
    overrides = [] if known else [f"reward.graders.{grader}.type={grader}"]
    texts = _text_options(known.type if known else grader)
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.isidentifier():
            fail(f"--option {option}: write it as KEY=VALUE, e.g. digits=3")
        if key not in texts:
            _check_colons(option, value)
        overrides.append(f"reward.graders.{grader}.{key}={json.dumps(value) if key in texts else value}")
    return overrides


def _check_colons(option: str, value: str) -> None:
    """`{exact:1}` is, to YAML, a key `exact:1` with no value."""
    import yaml

    from dapo.spec.yaml_text import read_yaml

    try:
        found = read_yaml(value)
    except yaml.YAMLError:
        return  # The spec says what is wrong.
    if isinstance(found, dict) and any(item is None and ":" in str(key) for key, item in found.items()):
        fail(f"--option {option}: YAML wants a space after the colon, e.g. parts={{exact: 1}}")


def _require_options(grader: str, path: Path | None, options: Sequence[str]) -> None:
    """A type of grader may be named without being in the spec; then all that it must know comes by --option."""
    kind = _types().get(grader)
    if kind is None:
        return
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    missing = [name for name in needed if name not in {option.partition("=")[0] for option in options}]
    if missing and _named(grader, path) is None:
        written = " ".join(f"--option {_EXAMPLES[name]}" for name in missing)
        fail(f"--grader {grader} needs {' and '.join(missing)}, e.g. {written}")


def _named(grader: str, path: Path | None) -> "AnyGrader | None":
    """What the spec calls so."""
    return spec_of_rules(path, []).reward.graders.get(grader) if path else None


def _types() -> "dict[str, type[AnyGrader]]":
    from typing import get_args

    from dapo.spec.tree.graders import AnyGrader

    return {kind.model_fields["type"].default: kind for kind in get_args(AnyGrader)}


def _text_options(name: str) -> set[str]:
    kind = _types().get(name)
    fields = kind.model_fields if kind else {}
    return {key for key, field in fields.items() if field.annotation in (str, str | None)}
