"""Curves and the declaration of metrics."""

import json
import math
from pathlib import Path

import pytest

from dapo.records.curves import _PANELS, draw_curves, plot_run, running_mean, series
from dapo.records.json_lines import read_json_lines
from dapo.telemetry.metrics import BY_NAME, METRICS

PNG = b"\x89PNG\r\n\x1a\n"
REQUIRED = (
    "step policy_version accuracy_mean reward_mean response_length_mean truncated_share entropy keep_rate "
    "staleness_mean staleness_max mismatch_kl clip_fraction_low clip_fraction_high loss grad_norm lr "
    "generated_tokens_per_s generator_idle learner_idle weight_sync_s step_s accuracy_reward_mean "
    "overlong_penalty_mean correct_penalised_share repetition_rate reflection_share distinct_responses_mean "
    "distinct_answers_mean effective_prompts all_correct_share all_wrong_share"
)


def test_each_metric_is_declared_once_with_a_meaning():
    assert len(BY_NAME) == len(METRICS)
    assert set(REQUIRED.split()) <= BY_NAME.keys()
    assert all(metric.meaning for metric in METRICS)


def test_every_drawn_metric_is_declared():
    assert {name for panel in _PANELS for name in panel.names} <= BY_NAME.keys()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "accuracy_mean": 0.2, "reward_mean": -0.6}],
        [{"step": 1}, {"step": 2, "accuracy_mean": None}, {"step": 3, "accuracy_mean": math.nan, "loss": math.inf}],
        [{"step": i, **{metric.name: 0.1 * i for metric in METRICS if metric.name != "step"}} for i in range(1, 40)],
        [{"accuracy_mean": 0.5}, {"step": "2", "accuracy_mean": "high"}],
    ],
    ids=["none", "one step", "not finite", "all", "wrong types"],
)
def test_a_picture_is_written_whatever_was_measured(tmp_path: Path, rows):
    out = draw_curves(rows, tmp_path / "deep" / "curves.png", title="t", reference_accuracy={"paper": 0.5})
    assert out.read_bytes().startswith(PNG)
    assert [path.name for path in out.parent.iterdir()] == ["curves.png"]


def test_series_leaves_out_what_is_not_a_finite_number():
    rows = [{"step": 1, "x": 1.0}, {"step": 2, "x": math.nan}, {"step": 3}, {"step": 4, "x": None}, {"step": 5, "x": 2}]
    assert series(rows, "x") == ([1.0, 5.0], [1.0, 2.0])


def test_running_mean_uses_fewer_points_at_the_start():
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_a_line_cut_off_by_a_crash_is_left_out_and_another_is_reported(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_json_lines(path) == [{"step": 1}]
    path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1 is not JSON"):
        read_json_lines(path)


def test_plot_run_needs_only_the_spec_and_the_metrics(tmp_path: Path):
    (tmp_path / "spec.yaml").write_text(json.dumps({"model": {"path": "./m"}, "data": {"path": "d.jsonl"}}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "accuracy_mean": 0.25}\n')
    assert plot_run(tmp_path).read_bytes().startswith(PNG)
