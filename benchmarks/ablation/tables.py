"""Figures as tables of rich."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from rich.table import Table

from .figures import Spread

Figures = Mapping[str, Spread]


class Column(NamedTuple):
    heading: str
    figure: str
    form: str
    spread: bool = False


COURSE = (
    Column("at equal tokens", "accuracy_at_generated_tokens", "{:.3f}", True),
    Column("at equal time", "accuracy_at_seconds", "{:.3f}", True),
    Column("at equal updates", "accuracy_at_updates", "{:.3f}", True),
    Column("final", "final_accuracy", "{:.3f}", True),
    Column("steps", "steps", "{:.0f}"),
    Column("updates", "updates", "{:.0f}"),
    Column("tokens", "generated_tokens", "{:,.0f}"),
    Column("time, s", "seconds", "{:.0f}"),
    Column("entropy", "final_entropy", "{:.2f}"),
    Column("length", "final_response_length", "{:.1f}"),
    Column("truncated", "final_truncated_share", "{:.3f}"),
    Column("keep rate", "keep_rate", "{:.2f}"),
)
COST = (
    Column("at equal tokens", "accuracy_at_generated_tokens", "{:.3f}", True),
    Column("final", "final_accuracy", "{:.3f}", True),
    Column("train, s", "train_s", "{:.2f}", True),
    Column("step, s", "step_s", "{:.2f}", True),
    Column("gradient norm", "grad_norm", "{:.2f}", True),
    Column("its variation", "grad_norm_variation", "{:.2f}", True),
    Column("largest fall", "largest_fall", "{:.3f}", True),
    Column("peak, MiB", "peak_rss_mib", "{:,.0f}", True),
)
COURSE_NOTE = (
    "accuracy of all sampled responses at temperature 1, running mean of 5 steps; ± standard deviation over seeds. "
    "entropy, length, truncated: last 5 steps. time: from the first step's end"
)
COST_NOTE = (
    "train, step: means a step. its variation: deviation over mean, over steps. largest fall: of the accuracy's "
    "running mean. peak: resident memory of the learner process (VmHWM), libraries included, without the checkpoint"
)


def table(title: str, columns: tuple[Column, ...], variants: Mapping[str, Figures], note: str) -> Table:
    found = Table(title=title, caption=note)
    found.add_column("", no_wrap=True)
    for column in columns:
        found.add_column(column.heading, justify="right")
    for label, figures in variants.items():
        found.add_row(label, *(_cell(column, figures[column.figure]) for column in columns))
    return found


def _cell(column: Column, found: Spread) -> str:
    mean = column.form.format(found.mean)
    if not column.spread or math.isnan(found.deviation):
        return mean
    return f"{mean} ± {column.form.format(found.deviation)}"


def memory_table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    """Figures of `compare_memory` by preset, and their difference to PPO's, where PPO is among them."""
    millions = next(iter(rows.values()))["parameters"] / 1e6
    found = Table(
        title=f"Learner memory with {millions:.0f} M parameters, float32",
        caption="peak: VmHWM of the learner process until its last step. own: less what its imports take. state: "
        "trained networks × (weights, gradients, two Adam moments) and the frozen reference, by count",
    )
    found.add_column("", no_wrap=True)
    for heading in ("peak, MiB", "own, MiB", "own against PPO", "state, MiB", "state against PPO", "train, s"):
        found.add_column(heading, justify="right")
    ppo = rows.get("ppo")
    for preset, row in rows.items():
        found.add_row(
            preset,
            *(f"{row['peak_mib']:,.0f}", f"{row['own_mib']:,.0f}", _against(row, ppo, "own_mib")),
            *(f"{row['state_mib']:,.0f}", _against(row, ppo, "state_mib"), f"{row['train_s']:.2f}"),
        )
    return found


def _against(row: Mapping[str, float], ppo: Mapping[str, float] | None, name: str) -> str:
    return "–" if ppo is None else f"{row[name] / ppo[name] - 1:+.0%}"
