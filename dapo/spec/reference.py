"""The reference page of the spec, from the tree itself: `python -m dapo.spec.reference > docs/spec.md`."""

import inspect
import re
import sys
from collections.abc import Iterator
from itertools import groupby

from dapo.spec.tree.algorithm import PRESETS, AlgorithmSpec
from dapo.spec.tree.fields import FieldRow, field_rows, section_types
from dapo.spec.wording import scalar_text

_CHOICE = re.compile(r"\[(.+)\]")

_INTRODUCTION = """\
# The spec of a run

<!-- Written by `python -m dapo.spec.reference`; `make proto` writes it anew. -->

A run is described by one YAML file. Fields that are left out take the defaults below; only `model.path` and one of
`data.path` and `data.sources` must be written. `<name>` is a name of your own.
`dapo train SPEC.yaml --set training.steps=20` sets a field from the command line (the value is YAML), and `--dry-run`
shows the resolved spec and what would be started. Unknown fields are refused.

Relative paths start from the current directory. Names carry their units: `_s` seconds, `_mib` MiB, `_tokens` tokens.
"""

_MEMORY = """\
## Redis memory

Payloads (token ids, log-probabilities, text) stay in Redis until a checkpoint covers the batch that trained on them
and another one follows it, so that a damaged newest checkpoint can fall back to the one before.
A spec is refused when

    completion = (prompt + response) × 4 + response × (4 + 5)      bytes
    step       = completion × training.prompts_per_step × sampling.group_size
    needed     = step × (2 × checkpoint.every_steps + (asynchrony.max_staleness + 1) / asynchrony.expected_keep_rate)
                 + evaluation

is more than `resources.redis.memory_mib`. It is 1 × where `checkpoint.keep_last` is 1, and / 1 without dynamic
sampling; prompt is `data.max_prompt_tokens`, and response is `sampling.expected_response_tokens` or, where that is not
given, `sampling.max_response_tokens`. evaluation is what an evaluation has in flight beside the training, with
`evaluation.every_steps`: `evaluation.prompts_in_flight` (or what it stands for) times the most samples of a set, each a
completion, of `evaluation.max_response_tokens` at most. Evaluations before and after the training wait for room.

While more than 70 % of it is in use, what only a damaged checkpoint would need is freed, and then a checkpoint is made
early. Only the run's own payloads count, whatever else is on the server.
"""


def render() -> str:
    sections = groupby(field_rows().values(), key=lambda row: row.section)
    parts = [_INTRODUCTION, *(_section(name, rows) for name, rows in sections), _presets(), _MEMORY]
    return "\n".join(parts)


def _section(name: str, rows: Iterator[FieldRow]) -> str:
    lines = [*_heading(name), "", "| field | type | default | bounds | meaning |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        default = "required" if row.default is None else _code(row.default)
        cells = (_code(_CHOICE.sub("", row.path)), row.type, default, row.bounds, row.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _heading(section: str) -> list[str]:
    choice = _CHOICE.search(section)
    if choice is None:
        return [f"## `{section}`" if section else "## Top level"]
    return [f"## `{_CHOICE.sub('', section)}`, `{choice[1]}`", "", inspect.getdoc(section_types()[section]) or ""]


def _presets() -> str:
    names = list(PRESETS)
    plain = AlgorithmSpec().model_dump()
    fields = [name for name in plain if any(name in preset for preset in PRESETS.values())]
    lines = [
        "## Presets of `algorithm`",
        "",
        "A preset sets the fields below; a field that is written out wins. All others are the same in each preset.",
        "",
        f"| field | {' | '.join(map(_code, names))} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for field in fields:
        values = (scalar_text(PRESETS[name].get(field, plain[field])) for name in names)
        lines.append(f"| {_code(field)} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    sys.stdout.write(render())
