"""The rungs of examples/ladder, and what benchmarks/ladder.py makes of its runs."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.ablation import figures, picture, runs, variants
from dapo.spec import RunSpec, dump_yaml, load_spec
from dapo.spec.tree.algorithm import AlgorithmSpec
from tests.support.paths import REPO

LADDER = REPO / "examples" / "ladder"
RUNGS = sorted(LADDER.glob("*.yaml"))
PAPER = [30, 36, 38, 41, 42, 50]
ROW = re.compile(r"^\| `(\d-[a-z-]+)` \|[^|]*\| (\d+) \|([^|]*)\|$", re.MULTILINE)
FIELD = re.compile(r"`(\w+: [^`]+)`")


def readme_rungs() -> dict[str, tuple[int, dict[str, Any]]]:
    """The paper's accuracy and the fields that each rung sets, from the table in the README."""
    text = (LADDER / "README.md").read_text(encoding="utf-8")
    return {
        name: (int(accuracy), yaml.safe_load("\n".join(FIELD.findall(fields))) or {})
        for name, accuracy, fields in ROW.findall(text)
    }


def rest(spec: RunSpec) -> dict[str, Any]:
    return spec.model_dump(exclude={"name", "algorithm"})


def changes(before: RunSpec, after: RunSpec) -> dict[str, Any]:
    """Fields of `algorithm` in which two rungs differ, with the later one's values."""
    old, new = before.algorithm.model_dump(), after.algorithm.model_dump()
    return {name: value for name, value in new.items() if old[name] != value}


def test_the_readme_names_the_rungs_with_the_papers_numbers() -> None:
    table = readme_rungs()
    assert list(table) == [path.stem for path in RUNGS] == list(variants.RUNGS)
    assert [accuracy for accuracy, _ in table.values()] == PAPER


@pytest.mark.parametrize(("before", "after"), pairwise(RUNGS), ids=lambda path: path.stem)
def test_a_rung_differs_from_the_one_before_in_the_fields_it_names_alone(before: Path, after: Path) -> None:
    lower, upper = load_spec(before), load_spec(after)
    set_here = changes(lower, upper)
    assert set_here == readme_rungs()[after.stem][1] != {}
    assert rest(upper) == rest(lower)
    head = "".join(line for line in after.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert set(re.findall(r"algorithm\.(\w+)", head)) == set_here.keys()
    assert f"after {before.stem}:" in head


def test_the_first_rung_is_grpo_without_kl_in_groups_of_sixteen() -> None:
    first = load_spec(RUNGS[0])
    grpo = AlgorithmSpec(preset="grpo", kl_coefficient=0.0)
    assert first.algorithm == grpo.model_copy(update={"preset": "dapo"})
    assert first.sampling.group_size == 16


def test_the_last_rung_is_the_preset_dapo() -> None:
    assert load_spec(RUNGS[-1]).algorithm == AlgorithmSpec(preset="dapo")


def test_rungs_are_on_the_toy_of_the_demo() -> None:
    demo, last = load_spec(LADDER.parent / "reverse.yaml"), load_spec(RUNGS[-1])
    assert rest(last) == rest(demo)
    assert last.algorithm == demo.algorithm


@pytest.mark.parametrize("technique", variants._TAKEN_AWAY)
def test_leaving_one_out_takes_back_what_its_rung_set(technique: str) -> None:
    variant = variants.without(technique)
    (number,) = [i for i, path in enumerate(RUNGS) if path.stem.endswith(technique)]
    taken = changes(load_spec(variant.base), load_spec(variant.base, variant.settings))
    before = load_spec(RUNGS[number - 1]).algorithm
    assert taken == {name: getattr(before, name) for name in taken}
    assert len(taken) == 1


@pytest.mark.parametrize("task", variants.TASKS)
def test_variants_train_on_equally_many_responses_and_differ_in_nothing_else(task: str) -> None:
    compared = variants.comparisons(list(variants.RUNGS), True, ["ppo", "grpo", "dapo"])
    specs = [
        variants.make_spec(variant, task, inputs=Path("/inputs"), seed=3, steps=7)
        for one in compared
        for variant in one.variants.values()
    ]
    assert {spec.asynchrony.max_staleness + 1 for spec in specs} == {figures._LEAD}
    for spec in specs:
        assert spec.training.prompts_per_step * spec.sampling.group_size == variants._RESPONSES
    differing = {"sampling": {"group_size"}, "training": {"prompts_per_step"}, "name": True, "algorithm": True}
    first, *others = (spec.model_dump(exclude={**differing, "value": True}) for spec in specs)
    assert all(other == first for other in others)


def test_memory_runs_keep_every_group() -> None:
    spec = variants.make_memory_spec("dapo", inputs=Path("/inputs"))
    assert not spec.algorithm.dynamic_sampling
    assert spec.training.prompts_per_step * spec.sampling.group_size == variants.MEMORY_RESPONSES


def rows(accuracies: list[float], tokens: int, **fields: float) -> list[dict[str, Any]]:
    """A run whose steps take 2 s and `tokens` each."""
    return [
        {
            "step": step,
            "time_s": 30.0 + 2 * step,
            "updates": 4.0,
            "generated_tokens": tokens * step,
            "accuracy_mean": accuracy,
            **dict.fromkeys(("entropy", "response_length_mean", "truncated_share", "step_s", "train_s"), 1.0),
            **dict.fromkeys(("grad_norm", "keep_rate"), 1.0),
            **fields,
        }
        for step, accuracy in enumerate(accuracies, start=1)
    ]


def test_courses_start_where_their_axis_does() -> None:
    run = rows([0.1, 0.2, 0.3], tokens=100)
    assert figures.course(run, "steps") == [1, 2, 3]
    assert figures.course(run, "updates") == [4, 8, 12]
    assert figures.course(run, "seconds") == [0, 2, 4]
    assert figures.course(run, "generated_tokens") == [100, 200, 300]


def test_runs_are_compared_at_the_smallest_total_before_generation_ends() -> None:
    thrifty, lavish = rows([0.5] * 4, tokens=100), rows([0.0, 0.2, 0.4, 0.6], tokens=200)
    budget = figures.budgets([thrifty, lavish])
    assert budget == {"generated_tokens": 200, "steps": 4, "updates": 16, "seconds": 6}
    found = figures.run_figures(lavish, 2 * figures.MIB, budget)
    assert found["accuracy_at_generated_tokens"] == 0
    assert found["accuracy_at_steps"] == pytest.approx(0.3)
    assert (found["generated_tokens"], found["peak_rss_mib"], found["largest_fall"]) == (800, 2, 0)


@pytest.mark.parametrize(("x", "expected"), [(0, 1), (10, 1), (15, 2), (20, 5), (99, 5)])
def test_values_between_points_are_linear_and_the_ends_hold(x: float, expected: float) -> None:
    assert figures.value_at([10, 20, 20], [1, 3, 5], x) == expected


def test_the_largest_fall_is_from_a_peak_to_a_later_value() -> None:
    assert figures.largest_fall([0.2, 0.5, 0.4, 0.6, 0.3, 0.9]) == pytest.approx(0.3)


def test_what_was_not_measured_keeps_its_last_value() -> None:
    found = figures.values([{"x": None}, {"x": 1}, {"x": None}], "x")
    assert math.isnan(found[0])
    assert found[1:] == [1, 1]


def test_spread_over_seeds_needs_two() -> None:
    assert figures.spread([1.0, 3.0]) == figures.Spread(2.0, pytest.approx(math.sqrt(2)))
    assert figures.spread([1.0]).as_json() == {"mean": 1.0, "deviation": None}


def test_a_finished_run_is_used_again_only_with_the_same_settings(tmp_path: Path) -> None:
    variant = variants.rung(variants._DAPO)
    spec, longer = (variants.make_spec(variant, "reverse", inputs=tmp_path, seed=1, steps=n) for n in (3, 4))
    moved = variants.make_spec(variant, "reverse", inputs=tmp_path / "elsewhere", seed=1, steps=3)
    job = runs.TrainingJob("reverse", variant.key, 1, spec, tmp_path)
    assert runs.load_finished(job) is None
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / runs._MEMORY_FILE).write_text('{"peak_rss_bytes": 5}')
    (tmp_path / "summary.json").write_text(json.dumps({"state": "failed"}))
    assert runs.load_finished(job) is None
    (tmp_path / "summary.json").write_text(json.dumps({"state": "succeeded"}))
    assert runs.load_finished(job) == runs.load_finished(job._replace(spec=moved)) == ([{"step": 1}], 5)
    with pytest.raises(runs.RunError, match="other settings"):
        runs.load_finished(job._replace(spec=longer))


def test_a_picture_is_drawn_of_uneven_runs(tmp_path: Path) -> None:
    drawn = {"one": [rows([0.1, 0.2], tokens=100), rows([0.2, 0.3], tokens=150)], "two": [rows([0.3, 0.4], tokens=90)]}
    picture.draw({"ladder, reverse": drawn, "algorithms, reverse": drawn}, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
