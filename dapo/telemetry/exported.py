"""Every metric that a service exports to Prometheus, declared once: name, type, labels, meaning and who exports it.

Names begin with `dapo_`, end with their base unit (`_seconds`, `_bytes`, `_ratio`) and, of counters, with `_total`.
Labels take few values: a run, a worker, a state, a reason; never a prompt, a group or a caller. docs/metrics.md is
written from this table (reference.py), and nothing can be exported that is not in it (instruments.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dapo.telemetry.metrics import METRICS, Metric

Kind = Literal["gauge", "counter", "histogram"]
Exporter = Literal["orchestrator", "generator", "verifier", "learner"]


@dataclass(frozen=True, slots=True)
class Exported:
    name: str
    kind: Kind
    meaning: str
    exporter: Exporter
    labels: tuple[str, ...] = ()
    """Beside `run` and `worker`, which whatever a worker exports has (WORKER_LABELS)."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, ascending, without infinity."""


WORKER_LABELS = ("run", "worker")
MOMENTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds in seconds of what answers at once."""
SPANS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Bounds in seconds of what takes its time."""
MOMENTS_OR_SPANS = (*MOMENTS, *(bound for bound in SPANS if bound > MOMENTS[-1]))
"""Bounds in seconds of what answers at once, or after long requests to others."""
LENGTHS = tuple(float(2**power) for power in range(4, 16))
"""Bounds in tokens, 16 to 32,768."""

_SUFFIXES = {"s": "seconds", "share": "ratio", "tokens/s": "tokens_per_second"}
"""By unit of a metric, what its exported name ends with; of any other unit the unit itself."""
_SHORT = {"s": "_s", "share": "_share", "tokens/s": "_tokens_per_s"}
"""By unit, the end of a metric's own name that says it."""


def gauge_name(metric: Metric) -> str:
    """Under which a run's newest value of the metric is exported: with its unit written out, where it has one."""
    suffix = _SUFFIXES.get(metric.unit, metric.unit)
    name = metric.name.removesuffix(_SHORT.get(metric.unit, ""))
    says = suffix.rstrip("s") in {word.rstrip("s") for word in name.split("_")} or not suffix
    return f"dapo_run_{name}" if says else f"dapo_run_{name}_{suffix}"


def _of_step(metric: Metric) -> Exported:
    unit = f" [{metric.unit}]" if metric.unit else ""
    meaning = f"{metric.meaning}{unit}. `{metric.name}` of the run's newest step"
    return Exported(gauge_name(metric), "gauge", meaning, "orchestrator", ("run",))


STEP_GAUGES: dict[str, Exported] = {metric.name: _of_step(metric) for metric in METRICS}
"""By name in METRICS, the gauge of its newest value."""


def _declared(exporter: Exporter, *rows: tuple[object, ...]) -> Iterable[Exported]:
    for name, kind, labels, meaning, *buckets in rows:
        yield Exported(f"dapo_{name}", kind, meaning, exporter, labels, *buckets)  # type: ignore[arg-type]


_RUN = ("run",)
_SERVICE = (
    ("build_info", "gauge", ("version",), "1; the version of this run service"),
    ("runs", "gauge", ("state",), "Runs that this service knows, by state; those that have ended too"),
    ("runs_led", "gauge", (), "Runs that go on under this instance of the service: those of which it exports more"),
    ("queue_runs", "gauge", (), "Runs that wait here for room"),
    ("machine_gpus", "gauge", (), "GPUs that this service may lend to runs"),
    ("machine_free_gpus", "gauge", (), "Those that no run and no other process has"),
    ("machine_cores", "gauge", (), "Cores for the workers of runs"),
    ("machine_free_cores", "gauge", (), "Those that no run is counted with"),
    ("machine_memory_bytes", "gauge", (), "Memory for runs"),
    ("machine_free_memory_bytes", "gauge", (), "What no run is counted with"),
    ("redis_up", "gauge", (), "Whether the Redis that the runs share answers: 1 or 0; none where each has its own"),
    ("redis_used_bytes", "gauge", (), "Memory that it uses"),
    ("redis_limit_bytes", "gauge", (), "Memory that it may use (maxmemory); none where it has no limit"),
    ("leases_taken_total", "counter", (), "Runs that this instance began to lead, or led again"),
    ("leases_lost_total", "counter", (), "Runs that another instance took from it, or that it could not keep"),
    ("api_request_seconds", "histogram", ("face", "operation", "outcome"), "From a request over REST or gRPC until its "
     "answer begins, by operation; `outcome` is ok, refused (the caller's fault) or failed", MOMENTS),
    ("api_streams", "gauge", (), "Streams of events and logs that callers have open"),
)  # fmt: skip
_OF_RUN = (
    ("run_info", "gauge", ("run", "name", "state"), "1; a run that goes on here, the name in its spec and its state"),
    ("run_steps_planned", "gauge", _RUN, "Steps that it is to have (training.steps)"),
    ("run_progress_timestamp_seconds", "gauge", _RUN, "Unix time of its newest step, or evaluated prompt; before the "
     "first, since when it is `running` here, and none before that"),
    ("run_checkpoint_interval_steps", "gauge", _RUN, "checkpoint.every_steps of its spec"),
    ("run_checkpoint_step", "gauge", _RUN, "Step of its newest checkpoint; none before the first"),
    ("run_checkpoint_timestamp_seconds", "gauge", _RUN, "Unix time at which that was written; before the first, and "
     "where it was resumed later, since when it is `running` here: what it did since then a crash would cost"),
    ("run_mirror_step", "gauge", _RUN, "Step of its newest checkpoint that is whole in checkpoint.mirror, since this "
     "instance leads it; none before the first"),
    ("run_groups", "gauge", ("run", "state"), "Groups by state of the ledger"),
    ("run_groups_issued_total", "counter", _RUN, "Groups that were issued since it began"),
    ("run_staleness_limit_versions", "gauge", _RUN, "asynchrony.max_staleness of its spec"),
    ("run_dead_letters", "gauge", _RUN, "Entries that nobody could process; the newest 10,000 or so are kept"),
    ("run_alerts_total", "counter", ("run", "severity", "cause"), "Alerts among its events since this instance leads "
     "it; `cause` is empty for those that have none"),
    ("run_redis_up", "gauge", _RUN, "Whether its Redis answered this time: 1 or 0. Where it does not, what is read "
     "there is missing"),
    ("run_payload_bytes", "gauge", _RUN, "Memory that its payloads take in Redis"),
    ("run_payload_limit_bytes", "gauge", _RUN, "Memory that its spec gives them (resources.redis.memory_mib)"),
    ("run_stream_entries", "gauge", ("run", "stream"), "Entries of a stream with which nobody has done: groups, on "
     "`completions` responses"),
    ("run_workers_wanted", "gauge", ("run", "role"), "Workers that it is to have"),
    ("run_workers", "gauge", ("run", "role", "state"), "Workers that it has, as its launcher sees them; `silent` are "
     "those that run and whose heart does not beat"),
    ("run_generators_wanted", "gauge", _RUN, "Generators that it is to have, those that only evaluate left out"),
    ("run_generators_ready", "gauge", _RUN, "Those that serve weights now"),
    ("run_generators_demand", "gauge", _RUN, "Generators that would keep up with the learner, from its last steps: "
     "what a scaler may follow"),
    ("run_restarts_total", "counter", _RUN, "Workers that were started again since this instance leads it; all ranks "
     "of the learner count as one"),
    ("run_lease_epoch", "gauge", _RUN, "Epoch under which this instance leads it; each change of the leader is a new "
     "one"),
    ("run_evaluation_step", "gauge", ("run", "set"), "Step of the newest evaluation of a set"),
    ("run_evaluation_avg_at_k_ratio", "gauge", ("run", "set"), "avg@k of that evaluation"),
)  # fmt: skip
_GENERATOR = (
    ("generator_tokens_total", "counter", (), "Response tokens that its engine made"),
    ("generator_responses_total", "counter", ("finish",), "Responses that ended: stop, length, or abort (made again)"),
    ("generator_requests_running", "gauge", (), "Responses that its engine was asked for and has not finished"),
    ("generator_prompts_running", "gauge", (), "Prompts that it has in hand"),
    ("generator_prompts_waiting", "gauge", (), "Those of which nothing is generated now: they wait for weights or for "
     "another try"),
    ("generator_busy_seconds_total", "counter", (), "Time in which it had something to generate"),
    ("generator_serving", "gauge", (), "Whether its engine serves weights of a known version: 1 or 0"),
    ("generator_weight_version", "gauge", (), "Step of the weights that it serves; NaN while it serves none"),
    ("generator_weight_updates_total", "counter", ("outcome",), "Weight updates that it was sent: done or failed"),
    ("generator_weight_pause_seconds", "histogram", (), "How long generation stood still for new weights", SPANS),
    ("generator_engine_restarts_total", "counter", (), "Engines that it has replaced"),
    ("generator_request_seconds", "histogram", (), "From the request for a response until it is finished", SPANS),
    ("generator_response_tokens", "histogram", (), "Length of finished responses", LENGTHS),
)  # fmt: skip
_VERIFIER = (
    ("verifier_graded_total", "counter", ("grader", "verdict"), "Responses that were graded: correct, wrong, or failed "
     "where the grading itself failed"),
    ("verifier_grading_seconds", "histogram", ("grader",), "From the wish for a verdict until it is there, with the "
     "wait for a grading process; of responses that are graded together the longest", MOMENTS_OR_SPANS),
    ("verifier_failures_total", "counter", ("grader", "reason"), "Gradings that failed, e.g. timeout or unavailable"),
    ("verifier_wait_seconds", "histogram", (), "How long completions waited for a verifier, by the clocks of Redis and "
     "of this host", SPANS),
    ("verifier_batches_running", "gauge", (), "Batches of completions in hand"),
)  # fmt: skip
_LEARNER = (
    ("learner_step", "gauge", (), "Steps that it has trained"),
    ("learner_step_seconds", "histogram", (), "Wall time of a step: waiting for a batch, training, publishing", SPANS),
    ("learner_train_seconds", "histogram", (), "Forward and backward passes and optimizer updates of a step", SPANS),
    ("learner_wait_seconds", "histogram", (), "How long a step's batch was waited for", SPANS),
    ("learner_weight_sync_seconds", "histogram", (), "From the end of training until every ready generator served the "
     "new weights", SPANS),
    ("learner_weight_failures_total", "counter", ("phase",), "Generators that failed to join or to take an update, "
     "and are left out for a while"),
    ("learner_weight_members", "gauge", (), "Generators that get its weights"),
    ("learner_tokens_total", "counter", (), "Response tokens in the loss of its steps"),
    ("learner_responses_total", "counter", (), "Responses in the loss of its steps"),
    ("learner_lost_responses_total", "counter", (), "Responses of its batches that could not be read"),
    ("learner_updates_total", "counter", (), "Optimizer updates"),
    ("learner_skipped_updates_total", "counter", (), "Updates left out because their gradient was not finite"),
    ("learner_checkpoint_seconds", "histogram", (), "From the beginning of a checkpoint until it counts", SPANS),
)  # fmt: skip

EXPORTED: tuple[Exported, ...] = (
    *_declared("orchestrator", *_SERVICE, *_OF_RUN),
    *STEP_GAUGES.values(),
    *_declared("generator", *_GENERATOR),
    *_declared("verifier", *_VERIFIER),
    *_declared("learner", *_LEARNER),
)

BY_EXPORTED_NAME: dict[str, Exported] = {one.name: one for one in EXPORTED}
