"""*Generators*: what each engine does, its requests, and the GPUs below it."""

from deploy.grafana.source.panels import Dashboard, Panel, Row

_OWN = '{run="$run",worker=~"$worker"}'


def _rate(name: str, labels: str = _OWN) -> str:
    return f"rate({name}{labels}[$__rate_interval])"


def quantiles(name: str, by: str, labels: str = _OWN) -> dict[str, str]:
    """Half, and 95 %, of what a histogram counted, by a label."""
    inner = f"sum by (le, {by}) (rate({name}_bucket{labels}[$__rate_interval]))"
    return {
        f"50 % {{{{{by}}}}}": f"histogram_quantile(0.5, {inner})",
        f"95 % {{{{{by}}}}}": f"histogram_quantile(0.95, {inner})",
    }


def by_steps(name: str, labels: str) -> dict[str, str]:
    """Mean, and 95 %, of what a histogram counts once a step or less: over an hour, as a minute has none or one."""
    total, number = (f"sum by (worker) (rate({name}_{part}{labels}[1h]))" for part in ("sum", "count"))
    buckets = f"sum by (le, worker) (rate({name}_bucket{labels}[1h]))"
    return {"mean {{worker}}": f"{total} / {number}", "95 % {{worker}}": f"histogram_quantile(0.95, {buckets})"}


_WORK = Row("Work", (
    Panel("Serving", "1 while a generator's engine serves weights of a known version. 0 for long: it starts, is "
          "quarantined, or its engine was lost; `dapo runs logs`.",
          {"{{worker}}": f"dapo_generator_serving{_OWN}"}, limits=(0, 1)),
    Panel("Tokens", "Response tokens a second of each. One that is far below its peers on like hardware is ill.",
          {"{{worker}}": _rate("dapo_generator_tokens_total")}, limits=(0, None)),
    Panel("Busy", "Share of time in which it had something to generate. Idle while the learner waits: prompts are held "
          "back by staleness or memory, see *Pipeline*.",
          {"{{worker}}": _rate("dapo_generator_busy_seconds_total")}, unit="percentunit", limits=(0, 1)),
    Panel("Requests and prompts", "Responses that its engine works on, prompts in hand, and those of which nothing is "
          "generated now.", {"{{worker}} responses": f"dapo_generator_requests_running{_OWN}",
                             "{{worker}} prompts": f"dapo_generator_prompts_running{_OWN}",
                             "{{worker}} waiting": f"dapo_generator_prompts_waiting{_OWN}"}, limits=(0, None)),
    Panel("Weights served", "Step of the weights of each. One that lags behind its peers misses updates.",
          {"{{worker}}": f"dapo_generator_weight_version{_OWN}"}),
    Panel("Engines replaced", "Since the worker began. Repeated: out of memory (lower resources.generator.max_total_tokens) or "
          "a broken GPU.", {"{{worker}}": f"dapo_generator_engine_restarts_total{_OWN}"}, limits=(0, None)),
))  # fmt: skip
_RESPONSES = Row("Responses", (
    Panel("Time of a response", "From its request until it is finished. A long tail holds steps up: see the token limit, "
          "and asynchrony.max_staleness.", quantiles("dapo_generator_request_seconds", "worker"), unit="s",
          limits=(0, None)),
    Panel("Length", "Tokens of finished responses.", quantiles("dapo_generator_response_tokens", "worker"),
          limits=(0, None)),
    Panel("How they end", "A second: by a stop token, at the limit, or aborted (and made again).",
          {"{{finish}}": f"sum by (finish) ({_rate('dapo_generator_responses_total')})"}, kind="stacked"),
))  # fmt: skip
_ENGINE = Row("SGLang's own (where its metrics are scraped)", (
    Panel("Running and queued requests", "As SGLang counts them. Queued for long: the KV cache is full, or "
          "max_running_requests is low.", {"{{worker}} running": f"sglang:num_running_reqs{_OWN}",
                                           "{{worker}} queued": f"sglang:num_queue_reqs{_OWN}"}, limits=(0, None)),
    Panel("KV cache", "Share of its tokens in use, and of the prompts' tokens that came from it. All n responses of a "
          "group share their prompt, so a low hit rate wants a look.", {"{{worker}} used": f"sglang:token_usage{_OWN}",
          "{{worker}} hits": f"sum by (worker) ({_rate('sglang:cached_tokens_total')}) "
          f"/ sum by (worker) ({_rate('sglang:prompt_tokens_total')})"}, unit="percentunit", limits=(0, 1)),
    Panel("Throughput", "Tokens a second that the engine decodes.", {"{{worker}}": f"sglang:gen_throughput{_OWN}"},
          limits=(0, None)),
    Panel("Retracted", "Requests a second that are thrown out of a full KV cache and computed again: wasted work.",
          {"{{worker}}": _rate("sglang:num_retracted_requests_total")}, limits=(0, None)),
), collapsed=True)  # fmt: skip
_GPU = Row("GPUs (where DCGM's exporter runs)", (
    Panel("Utilization", "DCGM's share of time with a kernel; high even when little of the GPU is used.",
          {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_GPU_UTIL"}, unit="percent", limits=(0, 100)),
    Panel("Memory", "Used frame buffer.", {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_FB_USED * 1048576"}, unit="bytes"),
    Panel("Power", "A GPU that works hard draws near its limit.",
          {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_POWER_USAGE"}, unit="watt"),
    Panel("Xid errors", "The last one's number; anything but 0 is in NVIDIA's list.",
          {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_XID_ERRORS"}, warn=1),
), collapsed=True)  # fmt: skip

GENERATORS = Dashboard(
    "dapo-generators",
    "dapo / Generators",
    "What each generator and its engine does.",
    (_WORK, _RESPONSES, _ENGINE, _GPU),
    {
        "run": "label_values(dapo_run_info, run)",
        "worker": 'label_values(dapo_generator_serving{run="$run"}, worker)',
    },
)
