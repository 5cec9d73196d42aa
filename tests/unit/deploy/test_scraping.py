"""Who scrapes whom, in docker-compose.yml and on one machine: each address leads to something that listens there."""

import re
from typing import Any
from urllib.parse import urlsplit

import yaml

from dapo.environment import DEFAULT_URL
from dapo.telemetry.server import METRICS_PORT
from tests.support.paths import REPO

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPO / "docker-compose.yml").read_text())["services"]
MOUNTS = dict(mount.split(":")[1::-1] for mount in SERVICES["prometheus"]["volumes"])


def scraped(text: str) -> tuple[dict[str, Any], set[str]]:
    """A configuration of Prometheus, and the HOST:PORTs that it asks."""
    configuration = yaml.safe_load(text)
    found = set[str]()
    for job in configuration["scrape_configs"]:
        found |= {target for group in job.get("static_configs", []) for target in group["targets"]}
        found |= {urlsplit(discovery["url"]).netloc for discovery in job.get("http_sd_configs", [])}
    return configuration, found


def test_prometheus_of_compose_asks_the_run_service_where_it_answers_without_a_token() -> None:
    path = MOUNTS["/etc/prometheus/prometheus.yml"]
    configuration, asked = scraped((REPO / path).read_text())
    (address,) = asked
    name, port = address.split(":")
    command = SERVICES[name]["command"]
    assert command[command.index("--metrics-address") + 1] == f"0.0.0.0:{port}"
    assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])
    assert not any("authorization" in job for job in configuration["scrape_configs"])
    for rules in configuration["rule_files"]:
        assert (REPO / MOUNTS[f"/etc/prometheus/{rules}"]).is_file()


def test_workers_of_compose_export_where_prometheus_reaches_them() -> None:
    agents = [service for service in SERVICES.values() if "work:/srv/dapo" in service.get("volumes", [])]
    agents = [service for service in agents if "command" not in service]
    assert len(agents) == 5
    for service in agents:
        assert service["environment"][METRICS_PORT] == "0"
        assert set(service["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_grafana_of_compose_asks_prometheus() -> None:
    grafana = SERVICES["grafana"]
    text = (REPO / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    (variable,) = re.findall(r"\$\{(\w+)\}", text)
    where = urlsplit(grafana["environment"][variable])
    assert set(SERVICES[where.hostname or ""]["networks"]) & set(grafana["networks"])
    assert SERVICES[where.hostname or ""]["ports"][0].endswith(f":{where.port}")


def test_prometheus_of_one_machine_asks_where_dapo_serve_listens() -> None:
    _, asked = scraped((REPO / "deploy/prometheus/prometheus.yml").read_text())
    assert asked == {urlsplit(DEFAULT_URL).netloc}
    assert f"at port {urlsplit(DEFAULT_URL).port}" in (REPO / "docs/dashboards.md").read_text()
