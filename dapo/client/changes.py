"""Operations that start, change and end runs. Each raises RefusedRequest where the service refuses."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dapo.client.answers.machine import Export
from dapo.client.answers.runs import Run
from dapo.client.errors import ServiceError
from dapo.client.exchange import IDEMPOTENCY_KEY, Asking, Request, given, part
from dapo.client.paths import run_path

_SLOW_S = 600.0
"""Of what starts, ends or writes something before it is answered."""
_ENDING_S = 120.0
"""Of a run's processes: a minute is the service's own bound, another its margin."""


def create(
    spec_yaml: str,
    run_dir: str = "",
    *,
    labels: Mapping[str, str] | None = None,
    notes: str = "",
    priority: int = 0,
    idempotency_key: str = "",
) -> Asking[Run]:
    """Start a run of the RunSpec in `spec_yaml` (YAML or JSON text) and return it while it starts, or is queued.

    `priority`, -100 to 100: of queued runs the highest starts first. `run_dir` is for the service of a `dapo train`
    alone. With an `idempotency_key` of your choice (a UUID) the request may be sent again: it makes one run.
    Raises RefusedRequest where the spec is invalid.
    """
    body = {"spec": spec_yaml, **given(run_dir=run_dir, labels=labels, notes=notes, priority=priority or None)}
    headers = {IDEMPOTENCY_KEY: idempotency_key} if idempotency_key else {}
    run: Run = yield Request("POST", "/v1/runs", body=body, headers=headers)
    return run


def update(
    run_id: str,
    *,
    generators: int | None = None,
    verifiers: int | None = None,
    labels: Mapping[str, str | None] | None = None,
    notes: str | None = None,
    priority: int | None = None,
) -> Asking[Run]:
    """Have so many generators or verifiers, other labels (None removes one, others stay), notes or priority; what is
    None stays as it is.

    Returns once workers are started or gone. Raises RefusedRequest where there is no room for them, or the run does not
    go on.
    """
    wanted: dict[str, Any] = given(generators=generators, verifiers=verifiers, labels=labels, priority=priority)
    if notes is not None:
        wanted["notes"] = notes
    run: Run = yield Request("PATCH", run_path(run_id), body=wanted, silence_s=_SLOW_S)
    return run


def stop(run_id: str) -> Asking[Run]:
    """Have a checkpoint written (`checkpoint.on_stop_s`), then end the run; returns once its processes are gone.

    Waits for the checkpoint, and for its copy (`checkpoint.mirror_wait_s`), then for two minutes: the service gives a
    run's processes one of them.
    """
    saving_s, copying_s = _saving_s(part((yield Request("GET", run_path(run_id, "spec"))), "yaml"))
    copy = f", its copy (checkpoint.mirror_wait_s = {copying_s:g} s)" if copying_s else ""
    run: Run = yield Request(
        "POST",
        run_path(run_id, "stop"),
        silence_s=saving_s + copying_s + _ENDING_S,
        awaited=f"a checkpoint (checkpoint.on_stop_s = {saving_s:g} s){copy} and the end of the run's processes",
    )
    return run


def _saving_s(spec_yaml: str) -> tuple[float, float]:
    """Seconds for a checkpoint, and for its copy."""
    try:
        checkpoint = yaml.safe_load(spec_yaml)["checkpoint"]
        # A service of an older release knows no mirror.
        copying_s = checkpoint["mirror_wait_s"] if checkpoint.get("mirror") is not None else 0.0
        return float(checkpoint["on_stop_s"]), float(copying_s)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServiceError("the run service answered no spec of a run: is it one (dapo serve)?") from error


def cancel(run_id: str) -> Asking[Run]:
    """End the run at once, without a checkpoint, or take it from the queue."""
    run: Run = yield Request("POST", run_path(run_id, "cancel"), silence_s=_SLOW_S)
    return run


def resume(run_id: str, overrides: Sequence[str] = ()) -> Asking[Run]:
    """Go on with a run that has ended, and return it while it starts.

    `overrides` change fields of its spec, e.g. "training.steps=100". Raises RefusedRequest where it has not ended, or
    cannot go on with such a spec.
    """
    run: Run = yield Request("POST", run_path(run_id, "resume"), body={"set": list(overrides)})
    return run


def delete(run_id: str, *, checkpoints: bool = False) -> Asking[None]:
    """Delete a run that has ended, with its records; its checkpoints and the spec stay in its folder, unless they are
    asked for, too."""
    yield Request("DELETE", run_path(run_id), query={"checkpoints": checkpoints}, silence_s=_SLOW_S)


def purge(run_id: str) -> Asking[None]:
    """Delete what a run that has ended holds in Redis: it can go on from a checkpoint only."""
    yield Request("POST", run_path(run_id, "purge"), silence_s=_SLOW_S)


def requeue(run_id: str, group_id: str) -> Asking[None]:
    """Have the prompt of a failed group issued once more, as a new group."""
    yield Request("POST", run_path(run_id, "groups", group_id, "requeue"))


def export(run_id: str, *, step: int | None = None, dtype: str = "", adapter: bool = False) -> Asking[Export]:
    """Have a checkpoint written as a Hugging Face folder below the run's; returns at once. Asked again, it tells how
    far that is, and begins anew what has failed.

    `step`: of a checkpoint that was kept, None: the newest. `dtype`: bfloat16, float16, float32, or as-base, the
    default. `adapter`: the LoRA adapter alone, in PEFT's format.
    """
    body = given(step=step, dtype=dtype, adapter=adapter or None)
    found: Export = yield Request("POST", run_path(run_id, "export"), body=body)
    return found
