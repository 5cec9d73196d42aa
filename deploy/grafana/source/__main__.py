"""Writes every dashboard to deploy/grafana/dashboards, where provisioning and the Helm chart find them."""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.source.generators import GENERATORS
from deploy.grafana.source.panels import Dashboard
from deploy.grafana.source.pipeline import PIPELINE
from deploy.grafana.source.platform import PLATFORM
from deploy.grafana.source.run import RUN
from deploy.grafana.source.verifiers import VERIFIERS
from deploy.grafana.source.weights import WEIGHTS

FOLDER = Path(__file__).parents[1] / "dashboards"
DASHBOARDS = (RUN, PIPELINE, GENERATORS, WEIGHTS, VERIFIERS, PLATFORM)


def text(dashboard: Dashboard) -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard.build()) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(text(dashboard))


if __name__ == "__main__":
    main()
