"""Paths of the run API."""

from urllib.parse import quote


def run_path(run_id: str, *below: str) -> str:
    """/v1/runs/<id>/…, whatever characters the parts have."""
    return "/".join(["/v1/runs", *(quote(one, safe="") for one in (run_id, *below))])
