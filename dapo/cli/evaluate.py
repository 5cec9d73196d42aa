"""`dapo eval`: models and runs, evaluated on the platform without training, side by side."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console

from dapo.cli.children import require_torch, run_module
from dapo.cli.errors import fail
from dapo.cli.train import train
from dapo.spec.load import build_spec
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from dapo.telemetry.model_comparison import Result, compare, comparison_json, draw_comparison, read_result

_CONTEXT_TOKENS = 4096
"""Assumed of a model whose config.json is not here."""
_RESERVE_TOKENS = 16


class Wanted(NamedTuple):
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
    wanted: Wanted,
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
    plans = [plan for subject in subjects for plan in _plans(subject, wanted, base, folder)]
    labels = _distinct([label for label, _ in plans])
    results: list[Result] = []
    for label, (_, spec) in zip(labels, plans, strict=True):
        console.print(f"[bold]{label}[/bold]" if len(plans) > 1 else label, soft_wrap=True)
        results.append(read_result(label, train(spec, folder / _file_name(label))))
    for table in compare(results):
        console.print(table)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(comparison_json(results), indent=2, ensure_ascii=False) + "\n")
    drawn = draw_comparison(results, picture or folder / "evaluation.png")
    console.print(f"picture     {drawn}", soft_wrap=True, highlight=False)


def _new_folder(parent: Path) -> Path:
    from datetime import UTC, datetime

    return parent / f"eval-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _plans(subject: str, wanted: Wanted, base: bool, folder: Path) -> list[tuple[str, RunSpec]]:
    """Label and spec of what is evaluated for one subject: with `base` a run's base model, then the run."""
    run_dir = Path(subject)
    if not (run_dir / "spec.yaml").is_file():
        if base:
            fail(f"--base wants the folder of a run; {subject} has no spec.yaml")
        return [(subject.rstrip("/").rpartition("/")[2] or subject, _build(_model_tree(subject, wanted), wanted))]
    tree = yaml.safe_load((run_dir / "spec.yaml").read_text(encoding="utf-8"))
    exported = folder / "models" / _file_name(run_dir.resolve().name)
    if not (exported / "config.json").exists():
        run_module("services.learner.export", str(run_dir), str(exported))
    models = {run_dir.resolve().name: str(exported)}
    if base:
        models = {f"{Path(tree['model']['path']).name} (base)": tree["model"]["path"], **models}
    return [
        (label, _build({**tree, "model": {**tree["model"], "path": path}}, wanted)) for label, path in models.items()
    ]


def _model_tree(model: str, wanted: Wanted) -> dict[str, Any]:
    if not wanted.data:
        fail("--data is missing: give the prompts to evaluate on, a .jsonl or .parquet file")
    prompt_tokens, response_tokens = _limits(Path(model))
    return {
        "model": {"path": model},
        "data": {"path": wanted.data[0], "max_prompt_tokens": prompt_tokens},
        "sampling": {"max_response_tokens": wanted.max_response_tokens or response_tokens},
        "algorithm": {"soft_overlong_punishment": False},
    }


def _limits(model: Path) -> tuple[int, int]:
    """Prompt and response tokens that fit the model's context: a quarter, at most 2,048, and the rest."""
    context = _CONTEXT_TOKENS
    if (model / "config.json").is_file():
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        context = config.get("max_position_embeddings") or _CONTEXT_TOKENS
    prompt = min(2048, context // 4)
    return prompt, max(1, context - prompt - _RESERVE_TOKENS)


def _build(tree: dict[str, Any], wanted: Wanted) -> RunSpec:
    """The spec of a run that only evaluates: no training steps, no learner."""
    evaluation: dict[str, Any] = {**tree.get("evaluation", {}), "at_start": True, "every_steps": None}
    evaluation["dedicated_generator"] = False
    evaluation |= _given(samples=wanted.samples, temperature=wanted.temperature, top_p=wanted.top_p)
    evaluation |= _given(max_response_tokens=wanted.max_response_tokens)
    data = {**tree["data"], **_given(chat=wanted.chat, prompt_template=wanted.prompt_template)}
    if wanted.data:
        data["held_out_share"] = 0.0
        chosen = _given(protocol=wanted.protocol, grader=wanted.grader, limit_rows=wanted.limit_rows)
        chosen |= _given(chat=wanted.chat, prompt_template=wanted.prompt_template)
        names = _distinct([_file_name(Path(path).stem) for path in wanted.data])
        evaluation["sets"] = {name: {"path": path, **chosen} for name, path in zip(names, wanted.data, strict=True)}
    elif wanted.samples:
        evaluation["sets"] = {
            name: {**one, "samples": wanted.samples} for name, one in evaluation.get("sets", {}).items()
        }
    changed = {
        **tree,
        "name": "eval",
        "data": data,
        "evaluation": evaluation,
        "training": {**tree.get("training", {}), "steps": 0},
    }
    try:
        return build_spec(changed, wanted.overrides)
    except SpecError as error:
        fail(str(error))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", label).strip("-") or "model"


def _distinct(names: Sequence[str]) -> list[str]:
    """Each name once, those that were there before with a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found
