"""The table of `dapo runs samples --compare`."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from dapo.records.answers import Cell, Change, PromptAnswers, changed_first, spread
from dapo.terminal import Column, WideTable, one_line

_STEP_WIDTH = 10
_GOLD_WIDTH = 8
_PROMPT_WIDTH = 16
_GAP = 2
_MARKS: dict[Change, tuple[str, str]] = {
    "became right": ("+", "bold green"),
    "became wrong": ("-", "bold red"),
    "": ("", ""),
}


def print_answers(console: Console, prompts: Sequence[PromptAnswers], limit: int) -> None:
    """Those that changed first, `limit` in all; of the steps as many as fit in the width, and two at least."""
    steps = sorted({step for prompt in prompts for step in prompt.cells})
    room = console.width - (1 + _GOLD_WIDTH + _PROMPT_WIDTH + 3 * _GAP)
    shown = spread(steps, max(2, room // (_STEP_WIDTH + _GAP)))
    # What the other columns leave goes to the prompts.
    prompt_width = max(_PROMPT_WIDTH, _PROMPT_WIDTH + room - len(shown) * (_STEP_WIDTH + _GAP))
    keys = [Column("", text=True, least=1), Column("prompt", text=True, least=_PROMPT_WIDTH), Column("gold", text=True)]
    rows = [
        [*_head(prompt, prompt_width), *(_cell(prompt.cells.get(step)) for step in shown)]
        for prompt in changed_first(prompts)[:limit]
    ]
    console.print(WideTable([*keys, *(Column(f"step {step}") for step in shown)], rows, keys=len(keys)))
    for line in _notes(prompts, steps, shown, limit):
        console.print(Text(line, "dim"), soft_wrap=True)


def _head(prompt: PromptAnswers, width: int) -> tuple[Text, Text, Text]:
    """Mark, row id above prompt, gold."""
    asked = prompt.prompt.rpartition("user: ")[2]
    name = Text.assemble(one_line(prompt.row_id, width, "dim"), "\n", one_line(asked, width))
    return Text(*_MARKS[prompt.change]), name, one_line(prompt.gold, _GOLD_WIDTH, "bold")


def _cell(cell: Cell | None) -> Text:
    """Share correct above the most frequent answer."""
    if cell is None:
        return Text("–", "dim")
    share = Text(f"{cell.correct}/{cell.total}", "green" if cell.right else "red")
    return Text.assemble(share, "\n", one_line(cell.answer, _STEP_WIDTH))


def _notes(prompts: Sequence[PromptAnswers], steps: Sequence[int], shown: Sequence[int], limit: int) -> list[str]:
    changes = Counter(prompt.change for prompt in prompts)
    lines = [
        f"{len(prompts)} prompts, steps {steps[0]} to {steps[-1]}: {changes['became right']} became right (+), "
        f"{changes['became wrong']} became wrong (-). Right: more than half of the responses are correct."
    ]
    if left_out := len(steps) - len(shown):
        lines.append(
            f"{left_out} steps between them have no room here: --last N chooses the last ones, --json shows all."
        )
    if len(prompts) > limit:
        lines.append(f"{len(prompts) - limit} prompts are not shown: --limit {len(prompts)} shows all.")
    return lines
