"""`dapo eval`: models and runs, evaluated on the platform without training, side by side."""

import json
import re
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from dapo.cli.children import require_torch, run_module
from dapo.cli.errors import INTERRUPTED, RUN_ERROR, fail
from dapo.cli.train import require_inputs, train
from dapo.host.files import write_json
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder
from dapo.records.model_comparison import Result, compare, comparison_json, draw_comparison, read_result
from dapo.spec.context import context_tokens
from dapo.spec.load import build_spec, parse_spec
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from dapo.spec.tree.evaluation import FORM_FIELDS

_CONTEXT_TOKENS = 4096
"""Assumed of a model whose config.json is not here."""
_RESERVE_TOKENS = 16


class EvaluationOptions(NamedTuple):
    """What the command line says; None where it says nothing."""

    data: Sequence[str]
    protocol: str | None
    samples: int | None
    grader: str | None
    temperature: float | None
    top_p: float | None
    max_response_tokens: int | None
    chat: bool | None
    prompt_template: str | None
    limit_rows: int | None
    overrides: Sequence[str]


def evaluate(
    subjects: Sequence[str],
    options: EvaluationOptions,
    *,
    base: bool,
    out: Path | None,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """Evaluate each of `subjects` (model directories, hub names, run folders), then print and write the comparison."""
    require_torch("evaluating on this machine")
    console = Console()
    folder = out or _new_folder(Path("runs"))
    picture = picture or folder / "evaluation.png"
    _check_destinations(folder, json_path, picture)
    results: list[Result] = []
    # A folder of its own: whoever names --out may have a folder of any name in it.
    with tempfile.TemporaryDirectory(prefix=".models-", dir=folder, ignore_cleanup_errors=True) as models:
        written = Path(models)
        plans = [
            plan for at, subject in enumerate(subjects) for plan in _plans(subject, options, base, written / str(at))
        ]
        labels = _distinct([label for label, _ in plans])
        for _, spec in plans:
            require_inputs(spec)
        try:
            for label, (_, spec) in zip(labels, plans, strict=True):
                console.print(label, soft_wrap=True, markup=False, style="bold")
                finished = train(spec, folder / _file_name(label))
                results.append(read_result(label, finished.folder))
                if finished.interrupted and len(results) < len(plans):
                    fail(f"interrupted after {len(results)} of {len(plans)} models", INTERRUPTED)
        finally:
            # What is finished is shown, whatever becomes of the rest.
            if results:
                _report(results, console, json_path, picture)
    if not any(one.row["avg_at_k"] for result in results for one in result.sets.values()):
        fail("no problem could be evaluated: see the alerts above", RUN_ERROR)


def _check_destinations(folder: Path, json_path: Path | None, picture: Path) -> None:
    """Leave with exit code 2 before hours of work, not after them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {folder} cannot be made: {in_words(error)}")
    for option, path in (("--json", json_path), ("--picture", picture)):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"{option} {path} cannot be written: {in_words(error)}")
        if path.is_dir():
            fail(f"{option} {path} is a folder. Give a file")


def _report(results: Sequence[Result], console: Console, json_path: Path | None, picture: Path) -> None:
    for table in compare(results):
        console.print(table)
    if json_path is not None:
        write_json(json_path, comparison_json(results))
    console.print(f"picture     {draw_comparison(results, picture)}", soft_wrap=True, highlight=False)


def _new_folder(parent: Path) -> Path:
    from datetime import UTC, datetime

    return parent / f"eval-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _plans(subject: str, options: EvaluationOptions, base: bool, exported: Path) -> list[tuple[str, RunSpec]]:
    """Label and spec of what is evaluated for one subject: with `base` a run's base model, then the run, whose model is
    written to `exported`."""
    run_dir = Path(subject)
    spec_path = RunFolder(run_dir).spec
    if not spec_path.is_file():
        if base:
            fail(f"--base wants the folder of a run; {subject} has no {spec_path.name}")
        return [(subject.rstrip("/").rpartition("/")[2] or subject, _build(_model_tree(subject, options), options))]
    _check_options(options)
    try:
        tree = parse_spec(spec_path.read_text(encoding="utf-8")).model_dump(mode="json")
    except SpecError as error:
        fail(f"{spec_path}: {error}")
    run_module("services.learner.export", str(run_dir), str(exported))
    models = {run_dir.resolve().name: str(exported)}
    if base:
        models = {f"{Path(tree['model']['path']).name} (base)": tree["model"]["path"], **models}
    return [
        (label, _build({**tree, "model": {**tree["model"], "path": path}}, options)) for label, path in models.items()
    ]


def _model_tree(model: str, options: EvaluationOptions) -> dict[str, Any]:
    if not options.data:
        fail("--data is missing: give the prompts to evaluate on, a .jsonl or .parquet file")
    prompt_tokens, response_tokens = _limits(Path(model))
    return {
        "model": {"path": model},
        "data": {"path": options.data[0], "max_prompt_tokens": prompt_tokens},
        "sampling": {"max_response_tokens": options.max_response_tokens or response_tokens},
        "algorithm": {"soft_overlong_punishment": False},
    }


def _limits(model: Path) -> tuple[int, int]:
    """Prompt and response tokens that fit the model's context: a quarter, at most 2,048, and the rest."""
    context = _CONTEXT_TOKENS
    if (model / "config.json").is_file():
        try:
            config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            fail(f"{model / 'config.json'} is not JSON: {error}")
        context = (context_tokens(config) if isinstance(config, dict) else None) or _CONTEXT_TOKENS
    prompt = min(2048, context // 4)
    return prompt, max(1, context - prompt - _RESERVE_TOKENS)


def _build(tree: dict[str, Any], options: EvaluationOptions) -> RunSpec:
    """The spec of a run that only evaluates: no training steps, no learner."""
    evaluation: dict[str, Any] = {**tree.get("evaluation", {}), "at_start": True, "every_steps": None}
    evaluation["dedicated_generator"] = False
    evaluation.pop("early_stopping", None)
    if options.temperature == 0:
        # One greedy response and no nucleus, whatever the run or the protocol has.
        options = options._replace(samples=options.samples or 1, top_p=options.top_p or 1.0)
    evaluation |= _given(samples=options.samples, temperature=options.temperature, top_p=options.top_p)
    evaluation |= _given(max_response_tokens=options.max_response_tokens)
    data = {**tree["data"], **_given(chat=options.chat, prompt_template=options.prompt_template)}
    if options.data:
        # What the run was trained with need not be here any more.
        kept = (*FORM_FIELDS, "max_prompt_tokens")
        data = {"path": options.data[0], **{name: data[name] for name in kept if name in data}}
        if options.protocol:
            evaluation |= {"temperature": 1.0, "top_p": 0.7}
            evaluation |= _given(temperature=options.temperature, top_p=options.top_p)
        chosen = _given(
            protocol=options.protocol, grader=options.grader, limit_rows=options.limit_rows, samples=options.samples
        )
        chosen |= _given(chat=options.chat, prompt_template=options.prompt_template)
        names = _distinct([_file_name(Path(path).stem) for path in options.data])
        evaluation["sets"] = {name: {"path": path, **chosen} for name, path in zip(names, options.data, strict=True)}
    elif options.samples:
        evaluation["sets"] = {
            name: {**one, "samples": options.samples} for name, one in evaluation.get("sets", {}).items()
        }
    changed = {
        **tree,
        "name": "eval",
        "data": data,
        "evaluation": evaluation,
        "training": {**tree.get("training", {}), "steps": 0},
        "checkpoint": {**tree.get("checkpoint", {}), "keep_best": None},
    }
    try:
        return build_spec(changed, options.overrides)
    except SpecError as error:
        fail(str(error))


def _check_options(options: EvaluationOptions) -> None:
    """Options that say how prompts are asked belong to prompts of one's own."""
    given = _given(
        protocol=options.protocol,
        grader=options.grader,
        limit_rows=options.limit_rows,
        chat=options.chat,
        prompt_template=options.prompt_template,
    )
    if given and not options.data:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        fail(f"{names}: a run's own sets are asked as its spec says. Give --data, or --set evaluation.sets.NAME.…")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", label).strip("-") or "model"


def _distinct(names: Sequence[str]) -> list[str]:
    """Each name once, those that were there before with a number."""
    found: list[str] = []
    for name in names:
        free = (name if number == 1 else f"{name}-{number}" for number in count(1))
        found.append(next(one for one in free if one not in found))
    return found
