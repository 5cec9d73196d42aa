"""Grafana's dashboards. `make dashboards` writes them to deploy/grafana/dashboards."""
