"""How many generators are wanted, as data for whoever scales a run."""

from typing import Any

from dapo.spec.run import RunSpec
from services.orchestrator.control.scaling import demand
from tests.support.spec import spec


def steps(count: int, made: RunSpec) -> list[dict[str, Any]]:
    """In which four generators would keep up with the learner, and two do half."""
    tokens = made.training.prompts_per_step * made.sampling.group_size * 50 / 0.5
    shared = {"step_s": 20.0, "learner_idle": 0.5, "generator_idle": 0.0, "generators": 2}
    measured = {"generated_tokens_per_s": tokens / 20, "keep_rate": 0.5, "response_length_mean": 50.0}
    return [{"step": step, **shared, **measured} for step in range(1, count + 1)]


def test_without_limits_of_its_own_a_run_tells_what_it_wants() -> None:
    made = spec(resources__generator__replicas=2)
    found = demand(made, steps(8, made))
    assert (found.wanted, round(found.balance or 0, 6)) == (4, 4.0)
    early = demand(made, steps(7, made))
    assert (early.wanted, early.balance) == (2, None)


def test_a_run_that_scales_itself_wants_no_more_than_it_may() -> None:
    made = spec(resources__generator={"replicas": 2, "autoscale": {"max": 3, "window_steps": 3}})
    assert demand(made, steps(3, made)).wanted == 3


def test_an_autoscaler_of_the_cluster_reaches_what_keeps_up_and_comes_back() -> None:
    """It changes no spec: what it has made of the run, the steps tell."""
    made = spec(resources__generator__replicas=1)
    tokens = made.training.prompts_per_step * made.sampling.group_size * 50
    rows: list[dict[str, Any]] = []

    def follow(running: int, needed: int) -> int:
        for _ in range(40):
            waited = max(0.0, 1 - running / needed)
            rows.append(
                {
                    **{"step": len(rows) + 1, "generators": running, "keep_rate": 1.0, "response_length_mean": 50.0},
                    **{"generated_tokens_per_s": tokens / 10 * min(running, needed) / needed},
                    **{"step_s": 10 / (1 - waited), "learner_idle": waited},
                    "generator_idle": max(0.0, 1 - needed / running),
                }
            )
            running = demand(made, rows).wanted
        return running

    assert follow(1, 10) == 9
    assert follow(9, 2) == 3
