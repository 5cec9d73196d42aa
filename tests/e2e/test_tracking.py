"""A real run with everything on that it can be told to: what it told is there, and no process is left."""

import math
from pathlib import Path

import pytest

from tests.e2e.conftest import Platform
from tests.e2e.test_train import run_to_end
from tests.support.orchestrator.trackers import attributes, collecting, mlflow_client, scalars, wandb_history

pytestmark = pytest.mark.timeout(900)

STEPS = 4


def test_a_run_is_told_to_everything(platform: Platform, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with collecting() as collector:
        settings = {
            "tracking__tensorboard": "true",
            "tracking__wandb": "{mode: offline}",
            "tracking__mlflow": "{tracking_uri: 'file:mlruns'}",
            "tracking__opentelemetry": f"{{endpoint: '{collector.url}'}}",
        }
        metrics, _, _ = run_to_end(platform, run_dir, training__steps=STEPS, **settings)
        spans = collector.spans()
    assert '"kind": "tracking"' not in (run_dir / "events.jsonl").read_text()
    entropy = [(row["step"], pytest.approx(row["entropy"], rel=1e-6)) for row in metrics]
    assert len(entropy) == STEPS
    assert scalars(run_dir, "learner/entropy") == entropy
    history = wandb_history(run_dir)
    assert [(int(one["step"]), float(one["learner/entropy"])) for one in history] == entropy
    client = mlflow_client(run_dir)
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "learner/entropy")
    assert [(one.step, one.value) for one in points] == entropy

    steps = [span for span in spans if span.name == "step"]
    assert [attributes(span)["dapo.step"] for span in steps] == [1, 2, 3, 4]
    for step, row in zip(steps, metrics, strict=True):
        train, update = (
            next(span for span in spans if span.name == name and span.parent_span_id == step.span_id)
            for name in ("train", "update weights")
        )
        for span, seconds in ((train, row["train_s"]), (update, row["weight_sync_s"])):
            assert math.isclose((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, seconds, abs_tol=0.002)
        groups = [span for span in spans if span.name == "group" and span.parent_span_id == step.span_id]
        assert len(groups) == 4
        assert all(attributes(span)["dapo.staleness"] <= row["staleness_max"] for span in groups)
