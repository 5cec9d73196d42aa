"""Curves of one or several runs as a picture (PNG), a panel for each metric."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from dapo.host.files import replacing
from dapo.records.evaluations import Point
from dapo.records.measured.series import Series
from dapo.telemetry.metrics import BY_NAME

COMPARED = ("accuracy_mean", "reward_mean", "response_length_mean", "entropy", "keep_rate", "generated_tokens_per_s")
_COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#6b7280")
_COLUMNS = 3
_PANEL_INCHES = (5.0, 3.6)


def draw_metrics(
    runs: Mapping[str, Series],
    names: Sequence[str],
    out: Path,
    *,
    evaluations: Mapping[str, Mapping[str, Sequence[Point]]] | None = None,
) -> Path:
    """Write the picture and return its path. `names`: of metrics, a panel each; `runs` and `evaluations` (by set) by
    label. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(name for found in (evaluations or {}).values() for name in found))
    panels = len(names) + len(sets)
    columns = min(_COLUMNS, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    colours = {label: _COLOURS[at % len(_COLOURS)] for at, label in enumerate(runs)}
    for ax, name in zip(axes, [*names, *sets], strict=False):
        ax.set_title(name, loc="left", fontsize=11, fontweight="bold")
        ax.set_xlabel("step")
        ax.grid(color="#e4e7eb")
        ax.spines[["top", "right"]].set_visible(False)
    for ax, name in zip(axes, names, strict=False):
        ax.set_ylabel(BY_NAME[name].unit)
        for label, series in runs.items():
            values = [math.nan if value is None else value for value in series.columns.get(name, [])]
            if values:
                ax.plot(series.step, values, ".-", color=colours[label], markersize=3, linewidth=1.4)
    for ax, name in zip(axes[len(names) :], sets, strict=False):
        for label, found in (evaluations or {}).items():
            curve = found.get(name, ())
            reach = [[one.value - one.low for one in curve], [one.high - one.value for one in curve]]
            ax.errorbar(
                [one.step for one in curve], [one.value for one in curve], yerr=reach, fmt="o-", capsize=3,
                markersize=4, linewidth=1.2, color=colours[label],
            )  # fmt: skip
    for ax in axes[panels:]:
        ax.set_visible(False)
    if len(runs) > 1:
        lines = [axes[0].plot([], [], color=colour, label=label)[0] for label, colour in colours.items()]
        figure.legend(handles=lines, loc="outside upper center", ncols=min(3, len(lines)), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        figure.savefig(scratch, format="png")
    return out
