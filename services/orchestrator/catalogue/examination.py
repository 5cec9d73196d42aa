"""What a spec would be as a run: what is wrong with it, what it resolves to, and what would be started."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dapo.policy import Admission
from dapo.spec.budget import PayloadBudget, payload_budget
from dapo.spec.checks.all import find_warnings
from dapo.spec.load import check_inputs, parse_spec, show_tree
from dapo.spec.preview import PreviewRow, preview
from dapo.spec.problem import Problem, SpecError
from dapo.spec.run import RunSpec
from dapo.spec.tree.run import RunTree
from dapo.spec.workloads import Workload, gpus_of, plan_workloads
from services.orchestrator.runs.resumption import Change, differences


class Plan(NamedTuple):
    """What would be started. `gpus`: those that all workers together use where they run on GPUs."""

    workloads: list[Workload]
    gpus: int
    payloads: PayloadBudget
    rows: list[PreviewRow]
    """What `dapo train --dry-run` prints."""


class Examination(NamedTuple):
    problems: list[Problem]
    """None: the service would start it now, as far as can be told."""
    warnings: list[Problem]
    spec: RunSpec | None
    """None where it is none."""
    changes: list[Change]
    """What differs from the defaults under its preset."""
    plan: Plan | None


def examine(
    text: str,
    overrides: Sequence[str],
    admission: Admission | None,
    misfits: Callable[[RunSpec], list[Problem]] = lambda _: [],
) -> Examination:
    """`misfits`: why the service's machine could never run a spec. Never raises for what a text may hold. Reads files
    where the policy allows it: call it off the event loop."""
    try:
        spec = parse_spec(text, overrides)
    except SpecError as error:
        return Examination(list(error.problems), [], None, [], None)
    problems = admission.refusals(spec) if admission is not None else []
    if not problems:
        problems = _input_problems(spec) or misfits(spec)
    # Warnings and the preview look into the model's folder, which the policy may not allow.
    warnings = find_warnings(spec) if not problems else []
    return Examination(problems, warnings, spec, _changes(spec), _plan(spec) if not problems else None)


def _input_problems(spec: RunSpec) -> list[Problem]:
    try:
        check_inputs(spec)
    except SpecError as error:
        return list(error.problems)
    return []


def _changes(spec: RunSpec) -> list[Change]:
    written: dict[str, Any] = {
        "model": {"path": spec.model.path},
        "data": {"path": "."},
        "algorithm": {"preset": spec.algorithm.preset},
    }
    plain = show_tree(RunTree.model_validate(written))
    for section in ("model", "data"):
        plain[section]["path"] = None  # Each spec names its own.
    return list(differences(plain, show_tree(spec)))


def _plan(spec: RunSpec) -> Plan:
    workloads = plan_workloads(spec)
    return Plan(workloads, gpus_of(workloads), payload_budget(spec), preview(spec))
