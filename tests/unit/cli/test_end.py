"""What `dapo train` says at the end, and its exit code: of what became of the run, whenever an interrupt came."""

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console

from dapo.cli.train import _Attempt, _conclude
from dapo.client import Run


def conclude(folder: Path, state: str | None, *, interrupted: bool, written: str | None = None) -> tuple[int, str]:
    """Exit code and output; `state` is the service's last word, `written` that of the run's folder."""
    attempt = _Attempt()
    attempt.interrupted = interrupted
    if state is not None:
        attempt.run = Run(
            id="r-1",
            state=state,
            run_dir=str(folder),
            message="no luck",
            step=1,
            steps_total=2,
            created_at="",
            ledger={},
        )
    if written is not None:
        summary = {"state": written, "message": "", "steps": 0, "steps_total": 0, "evaluations": {}, "ledger": {}}
        (folder / "summary.json").write_text(json.dumps(summary))
    out = io.StringIO()
    try:
        finished = _conclude(attempt, Console(file=out))
    except typer.Exit as left:
        return left.exit_code, out.getvalue()
    assert finished == (folder, interrupted)
    return 0, out.getvalue()


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_exit_code_and_words_agree(tmp_path: Path, state: str, code: int, interrupted: bool) -> None:
    left, said = conclude(tmp_path, state, interrupted=interrupted)
    assert left == code
    assert f"run r-1 {state}" in said


@pytest.mark.parametrize(("interrupted", "code"), [(True, 130), (False, 1)])
def test_a_run_that_was_stopped_says_so(tmp_path: Path, interrupted: bool, code: int) -> None:
    left, said = conclude(tmp_path, "stopped", interrupted=interrupted)
    assert (left, "run r-1 stopped" in said) == (code, True)


@pytest.mark.parametrize(("written", "code"), [("succeeded", 0), ("failed", 1), ("stopped", 130)])
def test_after_a_second_interrupt_the_folder_tells_how_it_ended(tmp_path: Path, written: str, code: int) -> None:
    left, said = conclude(tmp_path, "draining", interrupted=True, written=written)
    assert left == code
    assert f"run r-1 {written}" in said


@pytest.mark.parametrize("state", [None, "running"])
def test_where_nothing_is_known_of_the_end_none_is_told(tmp_path: Path, state: str | None) -> None:
    left, said = conclude(tmp_path, state, interrupted=True)
    assert left == 130
    assert "succeeded" not in said
