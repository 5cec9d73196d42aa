"""A run that goes on with another Redis than before, as from `dapo serve` to `dapo train --resume` and back."""

import asyncio
from pathlib import Path

import pytest

from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.identity import FolderLock, RunDirError, read_identity
from services.orchestrator.records.recorder import Recorder
from tests.support.orchestrator.control import STEPS, make_spec
from tests.support.orchestrator.story import STALENESS, Story, resumed


def test_of_two_redis_that_know_a_run_the_one_with_its_latest_word_counts(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """It begins on one, goes on with another, and comes back: both know of five steps, of which the last differs."""
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    story.start(spec, last=5, url=valkey.url)
    away = story.start(spec, step=4, last=5, previous=spec)
    assert "the checkpoint of step 4" in resumed(away)
    assert "another Redis had its latest word" in resumed(away)
    stage = story.start(spec, step=4, previous=spec, url=valkey.url)
    (*_, message) = [text for text in stage.alerts() if text.startswith("the run goes on")]
    assert "another Redis had its latest word" in message
    assert stage.states()[-1] == "succeeded"
    story.check(STEPS)


def test_a_run_that_another_service_goes_on_with_is_not_moved_to_another_redis(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    story.start(spec, last=2, url=valkey.url)
    before = read_identity(story.folder)
    others = FolderLock(story.folder, shared=True)
    with pytest.raises(RunDirError, match="the run goes on, in another run service on this machine"):
        Recorder.reopen(story.folder, spec)
    recorder = Recorder.reopen(story.folder, spec, shared=True)
    with pytest.raises(RunDirError, match="the run goes on, in another run service on this machine"):
        asyncio.run(recorder.begin_history())
    assert read_identity(story.folder) == before
    others.release()
    asyncio.run(recorder.begin_history())
    assert read_identity(story.folder).history not in ("", before.history)
    recorder.close()
