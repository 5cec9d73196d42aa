"""curves.png: the training curves of a run, drawn from its metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dapo.host.files import replacing
from dapo.records.evaluations import Point, points, read_evaluations
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from dapo.spec.load import parse_spec
from dapo.telemetry.metrics import BY_NAME

MetricRow = Mapping[str, Any]

_INK = "#1f2933"
_GRID = "#e4e7eb"
_COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")


class Panel(NamedTuple):
    """One set of axes. The first of the metrics `names` has the left axis, called `unit`; the others have the right one
    where `right` names it. `smooth`: the line is a running mean, else the values."""

    title: str
    names: tuple[str, ...]
    unit: str
    from_zero: bool = False
    right: str = ""
    smooth: bool = True


_PANELS: tuple[Panel, ...] = (
    Panel("Accuracy", ("accuracy_mean",), "share of responses that are correct", from_zero=True),
    Panel("Reward", ("reward_mean", "accuracy_reward_mean"), "reward"),
    Panel("Length", ("response_length_mean", "truncated_share"), "tokens", right="truncated share"),
    Panel("Entropy of the policy", ("entropy",), "nats a token", from_zero=True),
    Panel("Groups", ("keep_rate", "all_correct_share", "all_wrong_share"), "share of graded groups", from_zero=True),
    Panel("Staleness", ("staleness_mean", "staleness_max"), "versions", from_zero=True, smooth=False),
    Panel("Sampler-learner mismatch", ("mismatch_kl",), "KL in nats a token"),
    Panel("Gradient norm, loss", ("grad_norm", "loss"), "norm before clipping", right="loss"),
    Panel("Speed", ("generated_tokens_per_s", "generator_idle", "learner_idle"), "tokens/s", True, "idle share"),
)


def series(rows: Sequence[MetricRow], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric, without rows where it is missing, not a number or not finite."""
    steps: list[float] = []
    values: list[float] = []
    for row in rows:
        step, value = row.get("step"), row.get(name)
        numeric = all(isinstance(v, int | float) and math.isfinite(v) for v in (step, value))
        if numeric and step is not None and value is not None:
            steps.append(float(step))
            values.append(float(value))
    return steps, values


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each point (of fewer, near the start)."""
    means: list[float] = []
    for i in range(len(values)):
        part = values[max(0, i + 1 - window) : i + 1]
        means.append(math.fsum(part) / len(part))
    return means


def plot_run(run_dir: Path) -> Path:
    """Draw run_dir/curves.png from its metrics.jsonl and spec.yaml, and return its path.

    Raises FileNotFoundError where one of them is missing, ValueError where one cannot be read (SpecError is one).
    """
    folder = RunFolder(run_dir)
    spec = parse_spec(folder.spec.read_text(encoding="utf-8"))
    return draw_curves(
        read_json_lines(folder.metrics),
        folder.curves,
        title=f"{run_dir.resolve().name}: {spec.algorithm.preset}, {spec.training.prompts_per_step} prompts × "
        f"{spec.sampling.group_size} responses a step",
        smoothing_steps=spec.metrics.smoothing_steps,
        reference_accuracy=spec.metrics.reference_accuracy,
        evaluations=points(read_evaluations(run_dir)),
    )


def draw_curves(
    rows: Sequence[MetricRow],
    out: Path,
    *,
    title: str,
    smoothing_steps: int = 5,
    reference_accuracy: Mapping[str, float] | None = None,
    evaluations: Mapping[str, Sequence[Point]] | None = None,
) -> Path:
    """Write the picture to `out` (PNG) and return its path. Draws what there is: no rows give empty panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 11), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 3)
    for panel, ax in zip(_PANELS, axes.flat, strict=True):
        _draw_panel(ax, panel, rows, smoothing_steps)
    _draw_references(axes.flat[0], reference_accuracy or {})
    _draw_evaluations(axes.flat[0], evaluations or {})
    figure.suptitle(title, fontsize=14, fontweight="bold", color=_INK)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        figure.savefig(scratch, format="png")
    return out


def _draw_panel(ax: Any, panel: Panel, rows: Sequence[MetricRow], window: int) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    ax.set_xlabel("step", color=_INK)
    ax.set_ylabel(panel.unit, color=_INK)
    ax.grid(color=_GRID)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    right = _right_axis(ax, panel) if panel.right else ax
    drawn = [
        _draw_series(right if i else ax, rows, name, _COLOURS[i], window if panel.smooth else 1, len(panel.names))
        for i, name in enumerate(panel.names)
    ]
    if not any(drawn):
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color="#9aa5b1")
        return
    if panel.from_zero:
        ax.set_ylim(bottom=0)
    handles = [line for line in drawn if line is not None]
    if len(panel.names) > 1:
        # In line with the title, where it covers no curve.
        ax.legend(
            handles=handles, fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98),
            ncols=len(handles), handlelength=1.2, columnspacing=1.0, borderpad=0.2,
        )  # fmt: skip


def _right_axis(ax: Any, panel: Panel) -> Any:
    right = ax.twinx()
    right.spines[["top"]].set_visible(False)
    if BY_NAME[panel.names[1]].unit == "share":
        right.set_ylim(0, 1)
    right.set_ylabel(panel.right, color=_INK)
    return right


def _draw_series(ax: Any, rows: Sequence[MetricRow], name: str, colour: str, window: int, count: int) -> Any:
    steps, values = series(rows, name)
    if not values:
        return None
    ax.plot(steps, values, ".", color=colour, markersize=5 if len(values) < 100 else 2, alpha=0.35)
    unit = BY_NAME[name].unit
    short = name.removesuffix("_mean").removesuffix("_share").replace("_", " ")
    label = (unit if unit == "tokens/s" else short) if count > 1 else f"mean of {window} steps"
    (line,) = ax.plot(steps, running_mean(values, window), color=colour, linewidth=1.8, label=label)
    return line


def _draw_references(ax: Any, references: Mapping[str, float]) -> None:
    for label, value in references.items():
        ax.axhline(value, color=_INK, linewidth=1, linestyle="--")
        ax.annotate(f"{label} ({value:g})", (0.01, value), xycoords=("axes fraction", "data"), fontsize=8, color=_INK,
                    va="bottom")  # fmt: skip


def _draw_evaluations(ax: Any, evaluations: Mapping[str, Sequence[Point]]) -> None:
    """avg@k of each set, with 95 % intervals."""
    for colour, (label, found) in zip(_COLOURS[1:] * len(evaluations), evaluations.items(), strict=False):
        values = [point.value for point in found]
        reach = [
            [point.value - point.low for point in found],
            [point.high - point.value for point in found],
        ]
        steps = [point.step for point in found]
        ax.errorbar(
            steps, values, yerr=reach, fmt="o-", color=colour, capsize=3, markersize=5, linewidth=1, label=label
        )
    if evaluations:
        ax.autoscale(axis="y")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=8, frameon=False, loc="lower right")
