"""*Verifiers*: how fast and how well responses are graded."""

from deploy.grafana.source.generators import quantiles
from deploy.grafana.source.panels import Dashboard, Panel, Row
from deploy.grafana.source.run import of_run

_OWN = '{run="$run",worker=~"$worker"}'

_WORK = Row("Grading", (
    Panel("Graded", "Responses a second by verdict; failed: the grading itself failed and counts as wrong.",
          {"{{verdict}}": f"sum by (verdict) (rate(dapo_verifier_graded_total{_OWN}[$__rate_interval]))"},
          kind="stacked"),
    Panel("By grader", "Responses a second.",
          {"{{grader}}": f"sum by (grader) (rate(dapo_verifier_graded_total{_OWN}[$__rate_interval]))"}),
    Panel("Time of a verdict", "With the wait for a grading process. Near the grader's time limit: raise it, or look at "
          "the responses that take so long.", quantiles("dapo_verifier_grading_seconds", "grader", _OWN), unit="s",
          limits=(0, None)),
    Panel("Waiting for a verifier", "How long completions waited. Grows: `dapo runs scale RUN --verifiers`.",
          quantiles("dapo_verifier_wait_seconds", "worker", _OWN), unit="s", limits=(0, None)),
    Panel("Completions that wait", "Entries of the stream with which no verifier has done. What KEDA may scale by.",
          {"entries": 'dapo_run_stream_entries{run="$run",stream="completions"}'}, limits=(0, None)),
    Panel("In hand", "Batches of completions of each verifier.", {"{{worker}}": f"dapo_verifier_batches_running{_OWN}"},
          limits=(0, None)),
))  # fmt: skip
_FAILURES = Row("Failures", (
    Panel("Failed gradings", "Share of the responses graded for the step. Above 1 %: the rewards mislead; see the reasons.",
          {"failed": of_run("grader_failed_ratio")}, unit="percentunit", limits=(0, None), warn=0.01),
    Panel("Reasons", "In the time shown: timeout, crash, unavailable, bad_reply, bad_gold, unknown_grader "
          "(docs/graders.md).",
          {"{{grader}} {{reason}}": f"sum by (grader, reason) (increase(dapo_verifier_failures_total{_OWN}[$__range])) > 0"},
          kind="bars", width=16, warn=1),
))  # fmt: skip

VERIFIERS = Dashboard(
    "dapo-verifiers",
    "dapo / Verifiers",
    "How fast and how well responses are graded.",
    (_WORK, _FAILURES),
    {
        "run": "label_values(dapo_run_info, run)",
        "worker": 'label_values(dapo_verifier_batches_running{run="$run"}, worker)',
    },
)
