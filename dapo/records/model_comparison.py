"""Evaluations of several models, side by side: tables, JSON and a picture over k."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group
from rich.text import Text

from dapo.algo.evaluation import Estimate, difference
from dapo.host.files import replacing
from dapo.records.evaluations import read_evaluations
from dapo.records.samples import SampleFile, evaluation_path, read_groups
from dapo.terminal import Column, WideTable, visible

_MODEL_WIDTH = 12
_COLOURS = ("#6b7280", "#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626")


class SetResult(NamedTuple):
    row: Mapping[str, Any]
    """As in evaluations.jsonl."""
    shares: Mapping[tuple[str, str, str], float]
    """Share of correct responses by row, prompt and gold answer: rows of other files may have the same name."""


class Result(NamedTuple):
    """What one model reached."""

    label: str
    folder: Path
    sets: Mapping[str, SetResult]


def read_result(label: str, folder: Path) -> Result:
    """The newest evaluation of each set in the run's `folder`. Raises ValueError for a file that cannot be read."""
    newest = {row["set"]: row for row in read_evaluations(folder)}
    return Result(label, folder, {name: SetResult(row, _shares(folder, row)) for name, row in newest.items()})


def _shares(folder: Path, row: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    path = evaluation_path(folder, row["set"], row["step"])
    if not path.exists():
        return {}
    samples = (group.sample for group in read_groups([SampleFile(path)], []))
    return {(sample.row_id, sample.prompt, sample.gold): sample.share_correct for sample in samples}


def set_names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.sets))


def gain(first: SetResult, other: SetResult) -> Estimate | None:
    """How much more `other` solves than `first`, on the problems that both answered; None where there is none."""
    common = [problem for problem in first.shares if problem in other.shares]
    if not common:
        return None
    return difference([first.shares[problem] for problem in common], [other.shares[problem] for problem in common])


def compare(results: Sequence[Result]) -> list[Group]:
    """One table a set, one line a model; with several, the gain over the first on the same problems."""
    return [_table(name, [result for result in results if name in result.sets]) for name in set_names(results)]


def _table(name: str, results: Sequence[Result]) -> Group:
    rows = [result.sets[name].row for result in results]
    problems, ks = {row["problems"] for row in rows}, {row["samples"] for row in rows if "samples" in row}
    title = f"\n{visible(name)}: {_range(problems)} problems × {_range(ks)} samples"
    # Where the models have different k, the heading says just k, and each line holds the values of its own.
    k = str(ks.pop()) if len(ks) == 1 else "k"
    headings = [f"avg@{k}", f"pass@{k}", f"maj@{k}", "length", "truncated", "failed"]
    if len(results) > 1:
        headings.insert(1, "gain")
    columns = [Column("model", text=True, least=_MODEL_WIDTH), *map(Column, headings)]
    lines = []
    for result in results:
        gained = gain(results[0].sets[name], result.sets[name]) if result is not results[0] else None
        lines.append(
            list(map(Text, (visible(result.label), *_cells(result.sets[name].row, gained, several=len(results) > 1))))
        )
    caption = Text("[low, high]: 95 % bootstrap interval over problems", "dim italic")
    return Group(Text(title, "italic"), WideTable(columns, lines, keys=1), caption)


def _range(numbers: set[int]) -> str:
    if not numbers:
        return "0"
    return f"{min(numbers)}" if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def _cells(row: Mapping[str, Any], gained: Estimate | None, *, several: bool) -> list[str]:
    if row["avg_at_k"] is None:
        return ["–"] * (5 + several) + [str(row["failed_problems"])]
    found = [str(Estimate(**row["avg_at_k"]))]
    if several:
        found.append("–" if gained is None else f"{gained.value:+.3f} [{gained.low:+.3f}, {gained.high:+.3f}]")
    for measure in ("pass_at_k", "maj_at_k"):
        found.append("–" if row[measure] is None else f"{row[measure][str(row['samples'])]['value']:.3f}")
    return [*found, f"{row['response_length_mean']:.1f}", f"{row['truncated_share']:.3f}", str(row["failed_problems"])]


def comparison_json(results: Sequence[Result]) -> dict[str, Any]:
    """By set and model the row of evaluations.jsonl, and the gain over the first model."""
    report: dict[str, Any] = {}
    for name in set_names(results):
        present = [result for result in results if name in result.sets]
        for result in present:
            gained = gain(present[0].sets[name], result.sets[name]) if result is not present[0] else None
            entry = {**result.sets[name].row, "folder": str(result.folder)}
            report.setdefault(name, {})[result.label] = entry | ({"gain": gained._asdict()} if gained else {})
    return report


def draw_comparison(results: Sequence[Result], out: Path) -> Path:
    """pass@k and maj@k over k, one panel a set, with 95 % intervals; writes `out` (PNG) and returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = set_names(results)
    figure = Figure(figsize=(7 * max(1, len(names)), 5), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(names)), squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        for colour, result in zip(_COLOURS * len(results), results, strict=False):
            if name in result.sets:
                _draw(ax, result.label, result.sets[name].row, colour)
        ax.set_title(name, loc="left", fontsize=12, fontweight="bold")
        _dress(ax, any(result.sets[name].row["avg_at_k"] for result in results if name in result.sets))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        figure.savefig(scratch, format="png")
    return out


def _dress(ax: Any, measured: bool) -> None:
    ax.set_xlabel("k, responses a problem")
    ax.set_ylabel("share of problems")
    ax.set_ylim(0, 1)
    ax.grid(color="#e4e7eb")
    ax.spines[["top", "right"]].set_visible(False)
    if not measured:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color="#9aa5b1")
        return
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=8, frameon=False)


def _draw(ax: Any, label: str, row: Mapping[str, Any], colour: str) -> None:
    for measure, style, name in (("pass_at_k", "o-", "pass@k"), ("maj_at_k", "s--", "maj@k")):
        found = row.get(measure)
        if not found:
            continue
        ks = [int(k) for k in found]
        ax.plot(
            ks, [one["value"] for one in found.values()], style, color=colour, markersize=4, label=f"{label} {name}"
        )
        lows, highs = ([one[end] for one in found.values()] for end in ("low", "high"))
        ax.fill_between(ks, lows, highs, color=colour, alpha=0.12, linewidth=0)
