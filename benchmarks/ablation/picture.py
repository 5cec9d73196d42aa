"""A picture of each comparison: accuracy over four axes, entropy and length over generated tokens."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dapo.host.files import replacing
from dapo.records.curves import MetricRow

from .figures import AXES, accuracy, band, values

Runs = Mapping[str, Sequence[Sequence[MetricRow]]]
"""Rows of each run of each label."""
_COLOURS = ("#6b7280", "#2563eb", "#059669", "#d97706", "#7c3aed", "#dc2626")
_GRID = "#e4e7eb"


class ComparisonPanel(NamedTuple):
    axis: str
    title: str
    read: Callable[[Sequence[MetricRow]], list[float]]


_PANELS = (
    *(ComparisonPanel(axis, f"Accuracy against {name}", accuracy) for axis, name in AXES.items()),
    ComparisonPanel("generated_tokens", "Entropy, nats a token", lambda rows: values(rows, "entropy")),
    ComparisonPanel("generated_tokens", "Response length, tokens", lambda rows: values(rows, "response_length_mean")),
)


def draw(comparisons: Mapping[str, Runs], out: Path) -> None:
    """One block of panels for each title, written to `out` (PNG). Bands reach from the lowest to the highest seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8.5 * len(comparisons)), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    blocks = figure.subfigures(len(comparisons), 1, squeeze=False)
    for block, (title, runs) in zip(blocks.flat, comparisons.items(), strict=True):
        block.suptitle(title, fontsize=14, fontweight="bold")
        axes = block.subplots(2, 3)
        for panel, ax in zip(_PANELS, axes.flat, strict=True):
            _draw_panel(ax, panel, runs)
        block.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        figure.savefig(scratch, format="png")


def _draw_panel(ax: Any, panel: ComparisonPanel, runs: Runs) -> None:
    ax.set_title(panel.title, loc="left", fontsize=11)
    ax.set_xlabel(AXES[panel.axis])
    ax.grid(color=_GRID)
    ax.spines[["top", "right"]].set_visible(False)
    for colour, (label, rows) in zip(_COLOURS, runs.items(), strict=False):
        xs, mean, low, high = band(rows, panel.axis, [panel.read(one) for one in rows])
        ax.plot(xs, mean, color=colour, linewidth=1.8, label=label)
        ax.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
