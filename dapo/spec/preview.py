"""What `--dry-run` prints: the workloads of a run, and what a step of it means."""

from collections.abc import Sequence
from dataclasses import dataclass

from dapo.redaction import redact_url
from dapo.spec.budget import format_bytes, payload_budget
from dapo.spec.checks.all import find_warnings
from dapo.spec.run import RunSpec
from dapo.spec.tree.algorithm import PRESETS, AlgorithmSpec
from dapo.spec.tree.data import DataSpec
from dapo.spec.wording import scalar_text
from dapo.spec.workloads import Workload, plan_workloads


@dataclass(frozen=True)
class PreviewRow:
    section: str
    label: str
    text: str


def preview(spec: RunSpec) -> list[PreviewRow]:
    """What would be started and what a step of it means. No row shows a password."""
    warnings = [
        PreviewRow("Warnings", warning.field, f"{warning.value}: {warning.message}") for warning in find_warnings(spec)
    ]
    return [*_process_rows(spec), *_learning_rows(spec), *_memory_rows(spec), *warnings]


def format_preview(rows: Sequence[PreviewRow]) -> str:
    """Rows as plain text: a heading per section, labels aligned."""
    width = max((len(row.label) for row in rows), default=0)
    lines: list[str] = []
    section = None
    for row in rows:
        if row.section != section:
            lines += [""] * bool(lines) + [row.section]
            section = row.section
        lines.append(f"  {row.label:<{width}}  {row.text}")
    return "\n".join(lines)


def _process_rows(spec: RunSpec) -> list[PreviewRow]:
    resources = spec.resources
    notes = {
        "generator": f"device {resources.generator.device}, an SGLang server each, "
        f"tensor parallel {resources.generator.tensor_parallel}",
        "verifier": f"grader {spec.reward.grader}",
        "learner": f"device {resources.learner.device}, {spec.model.dtype}, ZeRO stage {spec.training.zero_stage}",
    }
    rows = [_workload_row(workload, notes[workload.role]) for workload in plan_workloads(spec)]
    redis = resources.redis
    control = redact_url(redis.url) if redis.url else "embedded Valkey, unless REDIS_URL is set"
    rows.append(PreviewRow("Processes", "redis", control))
    if redis.payload_url:
        rows.append(PreviewRow("Processes", "payloads", redact_url(redis.payload_url)))
    return rows


def _workload_row(workload: Workload, note: str) -> PreviewRow:
    ids = workload.worker_ids
    named = ids[0] + (f" … {ids[-1]}" if len(ids) > 1 else "")
    text = f"python -m {workload.module}  ({named}; {note})"
    return PreviewRow("Processes", f"{workload.replicas} × {workload.name}", text)


def _learning_rows(spec: RunSpec) -> list[PreviewRow]:
    training, group, stale = spec.training, spec.sampling.group_size, spec.asynchrony.max_staleness
    responses = training.prompts_per_step * group
    updates = training.updates_per_step
    return [
        PreviewRow("Learning", "model", spec.model.path),
        PreviewRow("Learning", "data", _describe_data(spec.data)),
        PreviewRow("Learning", "algorithm", _describe_algorithm(spec.algorithm)),
        PreviewRow(
            "Learning",
            "batch",
            f"{training.prompts_per_step} prompts × {group} samples = {responses} responses a step, "
            f"in {updates} update{'s' * (updates != 1)} of {responses // updates} responses",
        ),
        PreviewRow(
            "Learning",
            "run",
            f"{training.steps} steps, {training.steps * updates} updates, "
            f"{training.steps * responses:,} responses trained on",
        ),
        PreviewRow("Learning", "tokens", _describe_tokens(spec, responses)),
        PreviewRow("Learning", "staleness", _describe_staleness(stale, training.prompts_per_step)),
    ]


def _describe_data(data: DataSpec) -> str:
    if data.path is not None:
        return data.path
    return ", ".join(f"{name} × {source.weight:g} ({source.path})" for name, source in data.sources.items())


def _describe_algorithm(algorithm: AlgorithmSpec) -> str:
    preset = {**AlgorithmSpec().model_dump(), **PRESETS[algorithm.preset]}
    changed = [
        f"{name} = {scalar_text(value)}" for name, value in algorithm if name != "preset" and value != preset[name]
    ]
    return f"preset {algorithm.preset}" + (f" with {', '.join(changed)}" if changed else "")


def _describe_tokens(spec: RunSpec, responses: int) -> str:
    expected = spec.sampling.budgeted_response_tokens
    return (
        f"{responses} × {expected} = {responses * expected:,} response tokens a step as budgeted; "
        f"a response is cut at {spec.sampling.max_response_tokens}"
    )


def _describe_staleness(stale: int, prompts: int) -> str:
    if stale == 0:
        return "0: synchronous; a group is trained on by the version that it was issued under"
    return (
        f"at most {stale}: a group is trained on at most {stale} version{'s' * (stale != 1)} after it was issued, "
        f"so at most ({stale} + 1) × {prompts} = {(stale + 1) * prompts} groups are expected to be on their way"
    )


def _memory_rows(spec: RunSpec) -> list[PreviewRow]:
    budget = payload_budget(spec)
    used = 100 * budget.needed / budget.limit
    return [
        PreviewRow("Redis payloads", "estimate", budget.explain()),
        PreviewRow("Redis payloads", "budget", f"{format_bytes(budget.limit)}, of which {used:.0f} % needed"),
    ]
