"""All checks across fields, in the order in which their problems are shown.

A problem refuses the spec; a warning is shown and the run goes on.
"""

from collections.abc import Callable, Iterator

from dapo.spec.checks.data import data, unused_template_arguments
from dapo.spec.checks.evaluation import best_checkpoint, early_stopping, evaluation
from dapo.spec.checks.metrics import reflection_patterns
from dapo.spec.checks.model import model_path
from dapo.spec.checks.no_effect import fields_without_effect
from dapo.spec.checks.resources import autoscale, devices, max_replicas, outage_deadline, payload_memory, stall_deadline
from dapo.spec.checks.reward import graders, reward_values
from dapo.spec.checks.sampling import batch_division, distribution, group_size
from dapo.spec.checks.tracking import tracking_places
from dapo.spec.checks.training import training_course, training_memory, weight_deadlines
from dapo.spec.checks.warnings import unusual_algorithm, unusual_training
from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree

Check = Callable[[RunTree], Iterator[Problem]]

_PROBLEMS: tuple[Check, ...] = (
    model_path,
    data,
    distribution,
    group_size,
    batch_division,
    reward_values,
    graders,
    evaluation,
    best_checkpoint,
    early_stopping,
    fields_without_effect,
    training_course,
    training_memory,
    weight_deadlines,
    devices,
    autoscale,
    max_replicas,
    stall_deadline,
    outage_deadline,
    payload_memory,
    reflection_patterns,
    tracking_places,
)
_WARNINGS: tuple[Check, ...] = (unused_template_arguments, unusual_algorithm, unusual_training)


def find_problems(spec: RunTree) -> list[Problem]:
    return [problem for check in _PROBLEMS for problem in check(spec)]


def find_warnings(spec: RunTree) -> list[Problem]:
    """Choices that are allowed and rarely meant. Shown to the user, never fatal."""
    return [problem for check in _WARNINGS for problem in check(spec)]
