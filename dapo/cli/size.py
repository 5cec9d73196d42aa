"""`dapo size`: what a run needs, and how long a step takes, before it is started."""

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dapo.cli.completion import complete_override
from dapo.cli.errors import fail
from dapo.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from dapo.sizing import Assumptions
    from dapo.spec.run import RunSpec

_HEADER_BYTES = 8


def size(
    spec: Annotated[Path, typer.Argument(help="RunSpec as YAML, e.g. examples/reverse.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field.", autocompletion=complete_override),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN_DIR", help="A run on such machines: keep rate, lengths and speeds of it."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of a response; the keep rate follows from it.")
    ] = None,
    keep_rate: Annotated[
        float | None, typer.Option(help="Share of groups kept; default asynchrony.expected_keep_rate.")
    ] = None,
    response_tokens: Annotated[
        float | None, typer.Option(help="Mean length; default sampling.expected_response_tokens, or the limit.")
    ] = None,
    generated_per_s: Annotated[
        float | None, typer.Option(help="Response tokens that a GPU generates a second.")
    ] = None,
    trained_per_s: Annotated[
        float | None, typer.Option(help="Response tokens that a learner rank trains on a second.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Of the model, e.g. 7e9; default: counted where it is on this machine.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """GPUs, memory, Redis, seconds a step and the number of generators that balances the learner."""
    from dapo.sizing import Assumptions, explain, group_keep_rate
    from dapo.sizing import size as arithmetic
    from dapo.spec.load import load_spec
    from dapo.spec.preview import format_preview
    from dapo.spec.problem import SpecError

    given = {
        "--keep-rate": keep_rate,
        "--response-tokens": response_tokens,
        "--generated-per-s": generated_per_s,
        "--trained-per-s": trained_per_s,
        "--parameters": parameters,
    }
    for name, number in given.items():
        if number is not None and not (0 < number < math.inf):
            fail(f"{name} {number:g} must be above 0")
    if keep_rate is not None and keep_rate > 1:
        fail(f"--keep-rate {keep_rate:g} is a share: at most 1")
    if accuracy is not None and keep_rate is not None:
        fail("--accuracy and --keep-rate exclude each other: the keep rate follows from the accuracy")
    try:
        made = load_spec(spec, overrides or [])
    except SpecError as error:
        fail(str(error))
    if not made.training.steps:
        fail("training.steps = 0: the spec only evaluates, and no step of it is to be sized")
    if accuracy is not None:
        keep_rate = group_keep_rate(accuracy, made.sampling.group_size) if made.algorithm.dynamic_sampling else 1.0
        if keep_rate <= 0:
            fail(f"--accuracy {accuracy:g} keeps no group: all their responses are alike")
    seen = _measured(source) if source is not None else Assumptions(*_expected(made))
    assumed = Assumptions(
        keep_rate if keep_rate is not None else seen.keep_rate,
        response_tokens or seen.response_tokens,
        generated_per_s or seen.generated_per_s,
        trained_per_s or seen.trained_per_s,
        round(parameters) if parameters else _count_parameters(made),
    )
    found = arithmetic(made, assumed)
    if as_json:
        print_json(_as_json(dataclasses.asdict(found)))
    else:
        typer.echo(format_preview(explain(found, made)))


def _expected(spec: "RunSpec") -> tuple[float, float]:
    keep_rate = spec.asynchrony.expected_keep_rate if spec.algorithm.dynamic_sampling else 1.0
    return keep_rate, float(spec.sampling.budgeted_response_tokens)


def _measured(run_dir: Path) -> "Assumptions":
    from dapo.host.storage import in_words
    from dapo.records.folder import RunFolder
    from dapo.records.measured.series import newest_rows
    from dapo.sizing import MEASURED_STEPS, NotMeasured, measured
    from dapo.spec.load import load_spec
    from dapo.spec.problem import SpecError

    try:
        return measured(newest_rows(run_dir, MEASURED_STEPS), load_spec(RunFolder(run_dir).spec))
    except OSError as error:
        fail(f"--from {run_dir} is not the folder of a run that has trained: {in_words(error)}")
    except (NotMeasured, SpecError, ValueError) as error:
        fail(f"--from {run_dir}: {error}")


def _count_parameters(spec: "RunSpec") -> int | None:
    """Of a model on this machine, from the headers of its safetensors; None where there are none to be read."""
    from dapo.spec.paths import is_local_model

    if not is_local_model(spec.model.path):
        return None
    count = 0
    try:
        for path in sorted(Path(spec.model.path).glob("*.safetensors")):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(_HEADER_BYTES), "little")
                header = json.loads(file.read(min(length, path.stat().st_size)))
            count += sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return count or None


def _as_json(found: dict[str, Any]) -> dict[str, Any]:
    """Named tuples as objects."""
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in found.items()}
