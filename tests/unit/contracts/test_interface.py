"""The messages keep to the rules of proto/buf.yaml, and what would break those who use them is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO

BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
pytestmark = pytest.mark.skipif(BUF is None, reason="buf checks messages: pip install '.[dev]'")


def buf(*arguments: str) -> str:
    """What it finds; nothing where all is well."""
    done = subprocess.run([str(BUF), *arguments], cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    assert bool(done.stdout) == (done.returncode != 0)
    return done.stdout


def breaks(proto: Path) -> str:
    return buf("breaking", str(proto), "--against", "proto/released.binpb")


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPO / "proto", tmp_path / "proto"))


def change(proto: Path, before: str, after: str) -> None:
    path = proto / "dapo/v1/run.proto"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_the_messages_keep_to_the_rules_and_to_the_last_release() -> None:
    assert buf("lint", "proto") == ""
    assert breaks(REPO / "proto") == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("string created_at = 7;", ""),
        ("string created_at = 7;", "string created_at = 17;"),
        ("uint64 steps_total = 6;", "string steps_total = 6;"),
        ("RUN_STATE_STOPPED = 6;", ""),
        ("rpc GetRun(GetRunRequest) returns (Run);", ""),
    ],
)
def test_what_would_break_users_is_found(proto: Path, before: str, after: str) -> None:
    change(proto, before, after)
    assert breaks(proto)


def test_what_is_added_breaks_nobody(proto: Path) -> None:
    change(proto, "string created_at = 7;", "string created_at = 7;\n  string colour = 100;")
    assert breaks(proto) == ""


def test_a_name_that_is_not_in_the_style_of_the_others_is_found(proto: Path) -> None:
    change(proto, "string created_at = 7;", "string createdAt = 7;")
    assert "createdAt" in buf("lint", str(proto))
