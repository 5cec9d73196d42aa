"""*Platform*: the run service, its queue and leases, its API, and Redis."""

from deploy.grafana.source.generators import quantiles
from deploy.grafana.source.panels import Dashboard, Panel, Row

MISSING = (
    'sum by (run, role) (dapo_run_workers_wanted) - (sum by (run, role) (dapo_run_workers{state="running"}) '
    "or 0 * sum by (run, role) (dapo_run_workers_wanted))"
)

_RUNS = Row("Runs", (
    Panel("Runs", "That the service knows, by state; of several releases all.",
          {"{{state}}": "sum by (state) (max by (state, job, namespace, service) (dapo_runs))"}, kind="bars", width=6),
    Panel("Led", "Runs that go on under each instance of the service.", {"{{instance}}": "dapo_runs_led"}, kind="number",
          width=6),
    Panel("Waiting for room", "Runs in the queue. `dapo runs list` says for what each waits.",
          {"{{instance}}": "dapo_queue_runs"}, kind="number", width=6, warn=1),
    Panel("Version", "Of each instance; several at once during an upgrade.",
          {"{{instance}} {{version}}": "dapo_build_info"}, kind="number", width=6),
    Panel("Under way", "1 for a run that goes on, by its name and state.",
          {"{{name}} ({{run}}) {{state}}": "dapo_run_info"}),
    Panel("Workers", "As their launcher sees them; failed, exited or silent ones are started again within a budget.",
          {"{{run}} {{role}} {{state}}": "dapo_run_workers"}),
    Panel("Workers missing", "Wanted and not there. For long: no room, an image that cannot be pulled, or a worker that "
          "dies at its start; `dapo runs show`.",
          {"{{run}} {{role}}": MISSING}),
    Panel("Restarts", "Workers that were started again, in the time shown.",
          {"{{run}}": "increase(dapo_run_restarts_total[$__range])"}, kind="bars", warn=5),
))  # fmt: skip
_ROOM = Row("Room", (
    Panel("GPUs", "Of this service's machine, and those free.",
          {"{{instance}} all": "dapo_machine_gpus", "{{instance}} free": "dapo_machine_free_gpus"}, limits=(0, None)),
    Panel("Cores", "Counted with for workers, and free.",
          {"{{instance}} all": "dapo_machine_cores", "{{instance}} free": "dapo_machine_free_cores"}, limits=(0, None)),
    Panel("Memory for runs", "Counted with for runs, and free.", {"{{instance}} all": "dapo_machine_memory_bytes",
          "{{instance}} free": "dapo_machine_free_memory_bytes"}, unit="bytes", limits=(0, None)),
))  # fmt: skip
_LEASES = Row("Leases", (
    Panel("Taken and lost", "An hour. Lost ones: two services fight, or one stands still longer than its lease; see the "
          "runbook LeaseFlapping.", {"{{instance}} taken": "increase(dapo_leases_taken_total[1h])",
                                     "{{instance}} lost": "increase(dapo_leases_lost_total[1h])"}, limits=(0, None)),
    Panel("Epoch", "Of each run's lease; every change of its leader is a new one.",
          {"{{run}}": "dapo_run_lease_epoch"}),
))  # fmt: skip
_API = Row("API", (
    Panel("Requests", "A second, by face and outcome.",
          {"{{face}} {{outcome}}": "sum by (face, outcome) (rate(dapo_api_request_seconds_count[$__rate_interval]))"}),
    Panel("Time of an answer", "Until it begins.", quantiles("dapo_api_request_seconds", "face", ""), unit="s",
          limits=(0, None)),
    Panel("Slowest operations", "95 % of the answers of each begin within.",
          {"{{operation}}": "topk(10, histogram_quantile(0.95, sum by (le, operation) "
           "(rate(dapo_api_request_seconds_bucket[$__range]))))"}, kind="bars", unit="s"),
    Panel("Open streams", "Of events and logs. The service refuses more than --streams.",
          {"{{instance}}": "dapo_api_streams"}, limits=(0, None)),
))  # fmt: skip
_REDIS = Row("Redis", (
    Panel("Up", "Whether the shared Redis, and each run's, answered the last scrape.",
          {"shared {{namespace}}": "min by (job, namespace, service) (dapo_redis_up)", "{{run}}": "dapo_run_redis_up"}, limits=(0, 1)),
    Panel("Memory", "Used, and its limit. Near the limit: prompts wait, then batches; docs/runbooks/RedisMemory.md.",
          {"used {{namespace}}": "max by (job, namespace, service) (dapo_redis_used_bytes)",
           "limit {{namespace}}": "max by (job, namespace, service) (dapo_redis_limit_bytes)"}, unit="bytes",
          limits=(0, None)),
    Panel("Payloads of runs", "Share of the memory that the run's spec gives them (resources.redis.memory_mib). Above 0.8 "
          "prompts wait.", {"{{run}}": "dapo_run_payload_bytes / dapo_run_payload_limit_bytes"}, unit="percentunit",
          limits=(0, 1), warn=0.8),
))  # fmt: skip

PLATFORM = Dashboard(
    "dapo-platform",
    "dapo / Platform",
    "The run service: runs, room, leases, API, Redis.",
    (_RUNS, _ROOM, _LEASES, _API, _REDIS),
)
