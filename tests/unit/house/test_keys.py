"""No process is given the service's keys but the run service, and a tracker its own."""

import ast

from dapo.environment import SERVICE_KEYS, TRACKER_KEYS
from tests.support.paths import REPO

SERVICE = "dapo/cli/embedded.py"
"""Starts the run service itself."""


def test_whoever_starts_a_process_leaves_the_services_keys_out() -> None:
    starts = [
        (str(path.relative_to(REPO)), ast.unparse(node))
        for folder in ("dapo", "services")
        for path in (REPO / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "child_environment"
    ]
    assert SERVICE in dict(starts)
    assert len(starts) > 5
    assert [path for path, call in starts if "SERVICE_KEYS" not in call and path != SERVICE] == []
    assert set(TRACKER_KEYS) < set(SERVICE_KEYS)
