"""What no single field of `data` can tell, and the form of paths.

Loading a spec does not look for the files; `missing_inputs` does.
"""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pydantic import JsonValue

from dapo.spec.paths import DATA_SUFFIXES, is_hub_dataset, is_local_model
from dapo.spec.problem import Problem
from dapo.spec.tree.data import RowsSpec
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import shown

# Formats that people have and nothing here reads; any other suffix may be part of a folder's name.
_OTHER_FORMATS = frozenset(
    {".arrow", ".csv", ".gz", ".json", ".ndjson", ".npz", ".pkl", ".tsv", ".txt", ".zip", ".zst"}
)

# What apply_chat_template of transformers takes for itself, and how it calls the messages in the template.
_TAKEN_ARGUMENTS = frozenset(
    {"add_generation_prompt", "chat_template", "continue_final_message", "conversation", "max_length", "messages"}
    | {"padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize", "tokenizer_kwargs"}
    | {"truncation"}
)


def data(spec: RunTree) -> Iterator[Problem]:
    if spec.data.path is None and not spec.data.sources:
        yield Problem("data.path", None, "is required, or data.sources. Give one of them")
    if spec.data.path is not None and spec.data.sources:
        yield Problem(
            "data.path", spec.data.path, "stands beside data.sources. Leave it out, or make it one of data.sources"
        )
    for field, rows in data_fields(spec).items():
        yield from rows_problems(field, rows)
    for field, arguments in _template_arguments(spec):
        for name in sorted(_TAKEN_ARGUMENTS.intersection(arguments)):
            yield Problem(
                f"{field}.{name}",
                shown(arguments[name]),
                "is set by dapo itself: prompts are rendered, tokenised and continued in one way everywhere. Leave it "
                "out; here stands what a chat template asks for by name, such as enable_thinking",
            )


def unused_template_arguments(spec: RunTree) -> Iterator[Problem]:
    """Arguments that the chat template of a model on this machine does not name."""
    if not is_local_model(spec.model.path):
        return
    template = None
    for field, arguments in _template_arguments(spec):
        template = _chat_templates(Path(spec.model.path)) if template is None else template
        for name in arguments:
            if re.search(rf"\b{re.escape(name)}\b", template) is None:
                yield Problem(
                    f"{field}.{name}",
                    shown(arguments[name]),
                    f"is nothing that the chat template of {spec.model.path} asks for, so it changes no prompt",
                )


def _template_arguments(spec: RunTree) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """Each place with arguments of the chat template, those that only inherit the ones of `data` left out."""
    shared = spec.data.chat_template_kwargs
    yield "data.chat_template_kwargs", shared
    for field, rows in data_fields(spec).items():
        if rows.chat_template_kwargs != shared:
            yield f"{field}.chat_template_kwargs", rows.chat_template_kwargs


def _chat_templates(model: Path) -> str:
    """The texts of all that a model's folder has; empty where there is none that can be read."""
    texts = []
    for path in (*sorted(model.glob("*.jinja")), *sorted(model.glob("*_config.json")), model / "chat_template.json"):
        try:
            text = path.read_text(encoding="utf-8")
            found = text if path.suffix == ".jinja" else json.loads(text).get("chat_template") or ""
        except (OSError, ValueError, AttributeError):
            continue
        texts.append(found if isinstance(found, str) else json.dumps(found))
    return "\n".join(texts)


def data_fields(spec: RunTree) -> dict[str, RowsSpec]:
    """What has a path of rows, by its place in the spec."""
    single: dict[str, RowsSpec] = {} if spec.data.path is None else {"data": spec.data}
    sources = {f"data.sources.{name}": source for name, source in spec.data.sources.items()}
    return single | sources | {f"evaluation.sets.{name}": one for name, one in spec.evaluation.sets.items()}


def rows_problems(field: str, rows: RowsSpec) -> Iterator[Problem]:
    """Problems of the source that stands at `field`."""
    path = rows.path or ""
    if "\0" in path:
        yield Problem(f"{field}.path", shown(path.replace("\0", "\\0")), "holds a NUL character. Take it out")
    elif Path(path).suffix.lower() in _OTHER_FORMATS:
        yield Problem(
            f"{field}.path",
            path,
            f"must be a {' or '.join(DATA_SUFFIXES)} file, a folder or a hub name. Convert the data to one of them",
        )
    if "{prompt}" not in rows.prompt_template:
        yield Problem(
            f"{field}.prompt_template",
            shown(rows.prompt_template),
            "holds no `{prompt}`, so every prompt would be the same. Write `{prompt}` where the row's prompt belongs",
        )


def missing_rows(field: str, rows: RowsSpec) -> Iterator[Problem]:
    """Whether the path of the source at `field` is there, as far as this machine can tell without a hub."""
    path = rows.path or ""
    if is_hub_dataset(path):
        if find_spec("datasets") is None:
            yield Problem(
                f"{field}.path",
                path,
                "is a hub name, which needs the library datasets: run pip install '.[datasets]'. "
                "A folder here begins with ./ or /",
            )
    elif not Path(path).exists():
        yield Problem(
            f"{field}.path",
            path,
            "is not a file here, and no folder. Give the path of a .jsonl or .parquet file, or of a folder of them",
        )
