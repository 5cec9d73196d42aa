"""REST keeps to its OpenAPI document: schemathesis asks a live service, step by step and at random.

`make fuzz` asks thousands of times.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from dapo.bus.server.embedded import EmbeddedValkey
from tests.support.orchestrator.run_service import TOKEN, Service, create

EXAMPLES = os.environ.get("DAPO_FUZZ_EXAMPLES", "3")
"""Requests of each kind that are made for each operation."""
COMMAND = (sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()")
OPTIONS = (
    "--phases=examples,coverage,fuzzing,stateful",
    # What a spec in YAML may hold, and which runs there are, no schema tells.
    "--exclude-checks=positive_data_acceptance",
    f"--max-examples={EXAMPLES}",
    "--generation-deterministic",
)


def test_no_request_is_answered_with_a_failure_or_with_what_the_document_does_not_say(
    tmp_path: Path, spec: dict, valkey: EmbeddedValkey
) -> None:
    service = Service(tmp_path, module="tests.support.orchestrator.fake_service", REDIS_URL=valkey.url)
    try:
        for name in ("first", "second"):
            run = create(service, {**spec, "name": name})
            # Streams of runs that go on have no end; other tests have those.
            service.http.post(f"/v1/runs/{run['id']}/stop")
        done = subprocess.run(
            [
                *COMMAND,
                "run",
                f"{service.http.base_url}/openapi.json",
                "-H",
                f"Authorization: Bearer {TOKEN}",
                *OPTIONS,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert service.process.poll() is None
        audit = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        assert {("stop_run", "ok"), ("delete_run", "ok")} <= {(line["operation"], line["outcome"]) for line in audit}
        assert "Traceback" not in service.log.read_text()
    finally:
        service.close()
