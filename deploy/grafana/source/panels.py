"""What every dashboard is made of: a panel says what it shows and what to do, and all are filtered by run alike."""

from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    StackingMode,
    VisibilityMode,
    VizOrientation,
)

_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "dapo"


@dataclass(frozen=True)
class Panel:
    title: str
    meaning: str
    """What is seen and what to do, shown at the panel's title."""
    queries: dict[str, str]
    """Expressions of PromQL by legend, in which {{label}} stands for a label's value."""
    unit: str = "short"
    """As Grafana calls it: percentunit, s, bytes, short."""
    kind: Literal["lines", "stacked", "number", "bars"] = "lines"
    width: int = 8
    limits: tuple[float | None, float | None] = (None, None)
    """Least and greatest value of the axis."""
    warn: float | None = None
    """From here on the value wants a look."""
    logarithmic: bool = False
    height: int = 8


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: dict[str, str] = field(default_factory=dict)
    """Queries of label_values by the variable's name; several values may be chosen of all but `run`."""

    def build(self) -> models.Dashboard:
        made = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .timezone("browser")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .time("now-3h", "now")
            .refresh("15s")
            .link(_links())
            .with_variable(_datasource())
        )
        for name, query in self.variables.items():
            made.with_variable(_variable(name, query))
        if "run" in self.variables:
            for annotation in _annotations():
                made.annotation(annotation)
        for row in self.rows:
            _add(made, row)
        built = made.build()
        _number(built)
        return built


def _number(made: models.Dashboard) -> None:
    """Rows and panels, from 1: links to a panel name its number."""
    numbers = count(1)
    for one in made.panels or ():
        one.id_val = next(numbers)
        for inner in getattr(one, "panels", None) or ():
            inner.id_val = next(numbers)


def _links() -> dashboard.DashboardLink:
    made = dashboard.DashboardLink("dapo").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return made.as_dropdown(False).include_vars(True).keep_time(True)


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    one = name == "run"
    made = dashboard.QueryVariable(name).label(name.capitalize()).datasource(_SOURCE).query(query)
    made.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_DESC)
    return made.multi(not one).include_all(not one).all_value("" if one else ".*")


def _annotations() -> tuple[dashboard.AnnotationQuery, ...]:
    marks = (
        ("New weights", "blue", 'changes(dapo_run_policy_version{run="$run"}[$__interval]) > 0', False),
        ("Restarts of workers", "orange", 'increase(dapo_run_restarts_total{run="$run"}[$__interval]) > 0', True),
        ("Alerts", "red", 'ALERTS{alertstate="firing",run="$run"}', True),
    )
    made = []
    for name, color, query, shown in marks:
        one = dashboard.AnnotationQuery().name(name).datasource(_SOURCE).expr(query)
        made.append(one.icon_color(color).enable(shown))
    return tuple(made)


def _add(made: dashboard.Dashboard, row: Row) -> None:
    built = dashboard.Row(row.title).collapsed(row.collapsed)
    for panel in row.panels if row.collapsed else ():
        built.with_panel(_panel(panel))
    made.with_row(built)
    for panel in () if row.collapsed else row.panels:
        made.with_panel(_panel(panel))


def _panel(panel: Panel) -> stat.Panel | bargauge.Panel | timeseries.Panel:
    built: stat.Panel | bargauge.Panel | timeseries.Panel
    if panel.kind == "number":
        built = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    elif panel.kind == "bars":
        built = bargauge.Panel().orientation(VizOrientation.HORIZONTAL)
        built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        built = _lines(panel)
    built.title(panel.title).description(panel.meaning).datasource(_SOURCE).span(panel.width).height(panel.height)
    built.unit(panel.unit).thresholds(_thresholds(panel.warn))
    least, most = panel.limits
    if least is not None:
        built.min(least)
    if most is not None:
        built.max(most)
    for at, (legend, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + at))
        target.datasource(_SOURCE)
        built.with_target(target.instant() if panel.kind in ("number", "bars") else target.range())
    return built


def _lines(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    built = timeseries.Panel().line_width(1).show_points(VisibilityMode.AUTO).legend(legend.show_legend(True))
    if panel.kind == "stacked":
        built.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if panel.logarithmic:
        built.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    if panel.warn is not None:
        built.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return built


def _thresholds(warn: float | None) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="green")]
    if warn is not None:
        steps.append(models.Threshold(value=warn, color="orange"))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
