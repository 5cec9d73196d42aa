"""docs/api.md does what it says: its commands and its program against a live service."""

import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from dapo.bus.server.embedded import EmbeddedValkey
from tests.support.orchestrator.run_service import TOKEN, Service, base_env
from tests.support.paths import REPO

PAGE = (REPO / "docs/api.md").read_text(encoding="utf-8")


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(
    "language",
    [
        pytest.param("sh", marks=pytest.mark.skipif(not (which("curl") and which("jq")), reason="curl and jq")),
        "python",
    ],
)
def test_the_page_can_be_followed(tmp_path: Path, spec: dict, valkey: EmbeddedValkey, language: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    service = Service(state, module="tests.support.orchestrator.fake_service", REDIS_URL=valkey.url)
    try:
        (tmp_path / "spec.yaml").write_text(json.dumps(spec))
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        env = base_env(DAPO_URL=str(service.http.base_url), DAPO_API_TOKEN=TOKEN, no_proxy="127.0.0.1")
        done = subprocess.run(
            [*command, blocks(language)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout
        if language == "sh":
            assert "true\n" in said
            assert "event: state" in said
            assert "grpo: " in said
            assert '"kept": "yes"' in said
            assert "broken\n" in said
            assert json.loads((tmp_path / "spec.schema.json").read_text())["$schema"]
        else:
            assert "state {'state': 'starting'" in said
            assert "urn:dapo:problem:invalid_spec ['seed']" in said
        assert service.http.get("/v1/runs").json()["runs"] == []
    finally:
        service.close()
