"""A run is told to everything that it can be told to, over real Valkey, with the real libraries."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from services.orchestrator.tracking import feed, tracking
from tests.support.orchestrator.control import GROUP, STEPS, make_spec
from tests.support.orchestrator.stage import RUN, Stage, learn_to_the_end, run_stage
from tests.support.orchestrator.story import Story, resumed
from tests.support.orchestrator.trackers import attributes, collecting, mlflow_client, scalars, wandb_history

ALL_STEPS = list(range(1, STEPS + 1))


def everywhere(tmp_path: Path, collector_url: str) -> dict[str, Any]:
    """Sections of a spec with an evaluation and all places on."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": f"a{i}"}) + "\n" for i in range(3)))
    return {
        "evaluation": {"sets": {"exam": {"path": str(path), "grader": "exact"}}, "samples": 2, "every_steps": 5},
        "tracking": {
            "tensorboard": True,
            "wandb": {"mode": "offline"},
            "mlflow": {"tracking_uri": "file:mlruns"},
            "opentelemetry": {"endpoint": collector_url, "groups_per_step": 2, "every_steps": 3},
        },
    }


def mlflow_points(folder: Path, name: str) -> list[tuple[int, float]]:
    client = mlflow_client(folder)
    (experiment,) = client.search_experiments(filter_string="name = 'dapo'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == RUN
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]


def test_each_place_is_told_of_each_step_and_evaluation(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await learn_to_the_end(stage, commit=True)

    folder = tmp_path / "run"
    with collecting() as collector:
        spec = make_spec(tmp_path, staleness=1, tree=everywhere(tmp_path, collector.url))
        stage = run_stage(spec, folder, play, url=valkey.url)
        spans = collector.spans()
    assert stage.states()[-1] == "succeeded"
    assert [text for text in stage.alerts() if text.startswith("tracking")] == []
    rows = read_json_lines(folder / "metrics.jsonl")
    accuracy = [(row["step"], pytest.approx(row["accuracy_mean"])) for row in rows]
    evaluated = [
        (one["step"], pytest.approx(one["avg_at_k"]["value"])) for one in read_json_lines(folder / "evaluations.jsonl")
    ]
    assert len(evaluated) >= 2
    assert scalars(folder, "orchestrator/accuracy_mean") == accuracy
    assert scalars(folder, "evaluation/exam/avg_at_k") == evaluated
    assert mlflow_points(folder, "orchestrator/accuracy_mean") == accuracy
    assert mlflow_points(folder, "evaluation/exam/avg_at_k") == evaluated
    history = wandb_history(folder)
    named = "orchestrator/accuracy_mean"
    assert [(int(one["step"]), float(one[named])) for one in history if named in one] == accuracy
    named = "evaluation/exam/avg_at_k"
    assert [(int(one["step"]), float(one[named])) for one in history if named in one] == evaluated

    steps = [span for span in spans if span.name == "step"]
    assert [attributes(span)["dapo.step"] for span in steps] == [3, 6, 9]
    for step in steps:
        below = [span for span in spans if span.parent_span_id == step.span_id]
        assert [span.name for span in below] == ["group", "group", "train", "update weights"]
        assert all(span.trace_id == step.trace_id for span in below)
        for group in below[:2]:
            shown = attributes(group)
            assert shown["dapo.group.size"] == GROUP
            assert 0 <= shown["dapo.staleness"] <= 1
            stages = [span for span in spans if span.parent_span_id == group.span_id]
            assert [span.name for span in stages][1:] == ["verify", "wait for batch", "wait for learner and train"]
            assert attributes(stages[0])["gen_ai.usage.output_tokens"] > 0
            times = [time for span in stages for time in (span.start_time_unix_nano, span.end_time_unix_nano)]
            assert times == sorted(times)
    assert len([span for span in spans if span.name == "evaluation"]) == len(evaluated)
    assert attributes(next(span for span in spans if span.name == "end of run"))["dapo.state"] == "succeeded"


def test_a_run_that_goes_on_from_a_checkpoint_tells_no_step_twice(tmp_path: Path) -> None:
    """Step 5 is trained again: Redis is empty, and the checkpoint is of step 4."""
    story = Story(tmp_path / "run")
    with collecting() as collector:
        spec = make_spec(tmp_path, staleness=1, tree=everywhere(tmp_path, collector.url))
        story.start(spec, last=5)
        shutil.rmtree(RunFolder(story.folder).redis)
        stage = story.start(spec, step=4, previous=spec)
        traced = [attributes(span)["dapo.step"] for span in collector.spans() if span.name == "step"]
    assert stage.states()[-1] == "succeeded"
    assert "from the checkpoint of step 4" in resumed(stage)
    assert traced == [3, 6, 9]
    assert [step for step, _ in scalars(story.folder, "orchestrator/accuracy_mean")] == ALL_STEPS
    assert [step for step, _ in mlflow_points(story.folder, "orchestrator/accuracy_mean")] == ALL_STEPS
    told = [int(one["step"]) for one in wandb_history(story.folder) if "orchestrator/accuracy_mean" in one]
    assert told == ALL_STEPS


def test_places_that_are_gone_end_no_run_and_are_told_of_once(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refuses connections, one takes them and never answers."""
    monkeypatch.setattr(tracking, "CLOSING_S", 3.0)
    monkeypatch.setattr(feed, "SILENT_S", 0.5)

    async def play(stage: Stage) -> None:
        await learn_to_the_end(stage, commit=True)

    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        sections = {
            "mlflow": {"tracking_uri": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            "opentelemetry": {"endpoint": f"http://127.0.0.1:{refusing.getsockname()[1]}"},
        }
        spec = make_spec(tmp_path, staleness=1, tree={"tracking": sections})
        stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"
    assert stage.summary()["steps"] == STEPS
    assert len(read_json_lines(tmp_path / "run" / "metrics.jsonl")) == STEPS
    told = [text for text in stage.alerts() if text.startswith("tracking")]
    ends = [text for text in told if f"lacks {STEPS} steps" in text]
    assert {text.split()[0] for text in ends} == {"tracking.mlflow", "tracking.opentelemetry"}
    assert "it was not done within 3 s" in next(text for text in ends if "mlflow" in text)
    assert len(told) == len(set(told)) <= 6  # of each place: it is silent, it fails, it lacks steps
