"""Which processes a run is made of, as data: the local launcher starts them and `--dry-run` prints them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dapo.spec.budget import format_bytes, payload_budget
from dapo.spec.checks.consistency import find_warnings
from dapo.spec.run import RunSpec
from dapo.spec.text.paths import is_local_model
from dapo.spec.text.wording import redact_url, scalar_text
from dapo.spec.tree.algorithm import PRESETS, AlgorithmSpec
from dapo.spec.tree.data import DataSpec
from dapo.spec.tree.resources import Device


@dataclass(frozen=True)
class ProcessPlan:
    """One child process: `python -m <module>` with `env` added to the launcher's own environment."""

    role: str
    worker_id: str
    module: str
    env: dict[str, str]


@dataclass(frozen=True)
class PlanRow:
    section: str
    label: str
    text: str


@dataclass(frozen=True)
class _GpuShare:
    """CUDA_VISIBLE_DEVICES of the learner ranks together, and of each generator; None leaves it as it is."""

    learner: str | None
    generators: tuple[str | None, ...]


def plan_processes(
    spec: RunSpec,
    *,
    run_id: str,
    run_dir: Path,
    redis_url: str,
    payload_url: str | None,
    master_port: int,
    cuda_devices: Sequence[str] = (),
) -> list[ProcessPlan]:
    """Generators, verifiers and learner ranks of a run on one machine, in the order in which to start them.

    `cuda_devices` are the GPUs of this machine (`devices.visible_cuda_devices()`). Where there are enough, the learner
    ranks get the first and each generator the next `tensor_parallel`; otherwise all processes share what there is.
    """
    common = {"DAPO_RUN_ID": run_id, "DAPO_REDIS_URL": redis_url, "DAPO_RUN_DIR": str(run_dir)}
    if payload_url is not None:
        common["DAPO_PAYLOAD_URL"] = payload_url
    if is_local_model(spec.model.path):
        common["HF_HUB_OFFLINE"] = "1"
    resources = spec.resources
    share = _share_gpus(spec, cuda_devices)

    def process(role: str, index: int, env: dict[str, str]) -> ProcessPlan:
        worker_id = f"{role}-{index}"
        return ProcessPlan(role, worker_id, f"services.{role}", {**common, "DAPO_WORKER_ID": worker_id, **env})

    plans = []
    for index in range(spec.generator_processes):
        env = _device_env(resources.generator.device, share.generators[index], cuda_devices)
        evaluates = {"DAPO_EVALUATES": "1"} if index == resources.generator.replicas else {}
        plans.append(process("generator", index, env | evaluates))
    for index in range(resources.verifier.replicas):
        plans.append(process("verifier", index, {"OMP_NUM_THREADS": "1"}))
    for rank in range(resources.learner.ranks if spec.training.steps else 0):
        env = {
            "RANK": str(rank),
            "WORLD_SIZE": str(resources.learner.ranks),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(master_port),
        }
        env["DAPO_WEIGHT_BACKEND"] = weight_backend(spec, cuda_devices)
        device_env = _device_env(resources.learner.device, share.learner, cuda_devices)
        plans.append(process("learner", rank, {**env, **device_env}))
    return plans


def weight_backend(spec: RunSpec, cuda_devices: Sequence[str]) -> Literal["gloo", "nccl"]:
    """What carries new weights. `auto` is NCCL only where no GPU is shared, since NCCL refuses two ranks on one."""
    if spec.weight_sync.backend != "auto":
        return spec.weight_sync.backend
    devices = (spec.resources.learner.device, spec.resources.generator.device)
    return "nccl" if "cpu" not in devices and _share_gpus(spec, cuda_devices).learner else "gloo"


def _share_gpus(spec: RunSpec, devices: Sequence[str]) -> _GpuShare:
    generator, learner = spec.resources.generator, spec.resources.learner
    ranks = 0 if learner.device == "cpu" else learner.ranks
    width = 0 if generator.device == "cpu" else generator.tensor_parallel
    count = spec.generator_processes
    if not devices or ranks + width * count > len(devices):
        return _GpuShare(None, (None,) * count)
    starts = [ranks + index * width for index in range(count)]
    return _GpuShare(",".join(devices[:ranks]), tuple(",".join(devices[start : start + width]) for start in starts))


def _device_env(device: Device, visible: str | None, devices: Sequence[str]) -> dict[str, str]:
    if device == "cpu" or (device == "auto" and not devices):
        # More than one thread a process slows small models down, and a GPU in sight would be used.
        return {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}


def describe_plan(spec: RunSpec, processes: Sequence[ProcessPlan]) -> list[PlanRow]:
    """What would be started and what a step of it means, for `--dry-run`. No row shows a password."""
    warnings = [
        PlanRow("Warnings", warning.field, f"{warning.value}: {warning.message}") for warning in find_warnings(spec)
    ]
    return [*_process_rows(spec, processes), *_learning_rows(spec), *_memory_rows(spec), *warnings]


def format_plan(rows: Sequence[PlanRow]) -> str:
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


def _process_rows(spec: RunSpec, processes: Sequence[ProcessPlan]) -> list[PlanRow]:
    resources = spec.resources
    notes = {
        "generator": f"device {resources.generator.device}, an SGLang server each, "
        f"tensor parallel {resources.generator.tensor_parallel}",
        "verifier": f"grader {spec.reward.grader}",
        "learner": f"device {resources.learner.device}, {spec.model.dtype}, ZeRO stage {spec.training.zero_stage}",
    }
    rows = []
    for role, note in notes.items():
        plans = [plan for plan in processes if plan.role == role]
        if plans:
            ids = plans[0].worker_id + (f" … {plans[-1].worker_id}" if len(plans) > 1 else "")
            rows.append(PlanRow("Processes", f"{len(plans)} × {role}", f"python -m {plans[0].module}  ({ids}; {note})"))
    redis = resources.redis
    control = redact_url(redis.url) if redis.url else "embedded Valkey, unless REDIS_URL is set"
    rows.append(PlanRow("Processes", "redis", control))
    if redis.payload_url:
        rows.append(PlanRow("Processes", "payloads", redact_url(redis.payload_url)))
    return rows


def _learning_rows(spec: RunSpec) -> list[PlanRow]:
    training, group, stale = spec.training, spec.sampling.group_size, spec.asynchrony.max_staleness
    responses = training.prompts_per_step * group
    updates = training.updates_per_step
    return [
        PlanRow("Learning", "model", spec.model.path),
        PlanRow("Learning", "data", _describe_data(spec.data)),
        PlanRow("Learning", "algorithm", _describe_algorithm(spec.algorithm)),
        PlanRow(
            "Learning",
            "batch",
            f"{training.prompts_per_step} prompts × {group} samples = {responses} responses a step, "
            f"in {updates} update{'s' * (updates != 1)} of {responses // updates} responses",
        ),
        PlanRow(
            "Learning",
            "run",
            f"{training.steps} steps, {training.steps * updates} updates, "
            f"{training.steps * responses:,} responses trained on",
        ),
        PlanRow("Learning", "tokens", _describe_tokens(spec, responses)),
        PlanRow("Learning", "staleness", _describe_staleness(stale, training.prompts_per_step)),
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


def _memory_rows(spec: RunSpec) -> list[PlanRow]:
    budget = payload_budget(spec)
    used = 100 * budget.needed / budget.limit
    return [
        PlanRow("Redis payloads", "estimate", budget.explain()),
        PlanRow("Redis payloads", "budget", f"{format_bytes(budget.limit)}, of which {used:.0f} % needed"),
    ]
