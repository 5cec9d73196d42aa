"""Where the tests find the repository, and beside it what it is compared with (absent on most machines)."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SHARED = REPO.parent / "shared"
