"""The reference page of the exported metrics: `python -m dapo.telemetry.reference > docs/metrics.md`."""

import sys
from itertools import groupby

from dapo.telemetry.exported import EXPORTED, WORKER_LABELS, Exported

_INTRODUCTION = """\
# Metrics for Prometheus

<!-- Written by `python -m dapo.telemetry.reference`; `make proto` writes it anew. -->

Every service exports what it measures in Prometheus' text format. Names begin with `dapo_` and end with their base unit
(`_seconds`, `_bytes`, `_ratio`) and, of counters, with `_total`. Labels take few values: none holds a prompt, a group
or a caller. How to scrape them is in [operating.md](operating.md#metrics). Beside them each process exports the
`process_*` and `python_gc_*` metrics of prometheus-client, and SGLang its own, `sglang:*`.

A run that has ended is counted by state and exports nothing else: its curves are in its folder, and over the API.
"""

_SECTIONS = {
    "orchestrator": "Run service\n\nFrom `GET /metrics`. What has the label `run` is there for runs that go on under "
    "this instance of the service.",
    "generator": f"Generator\n\nFrom each generator, with the labels `{'` and `'.join(WORKER_LABELS)}`.",
    "verifier": "Verifier\n\nFrom each verifier, with the same two labels.",
    "learner": "Learner\n\nFrom rank 0 of the learner, with the same two labels.",
}


def render() -> str:
    parts = [_INTRODUCTION]
    for exporter, rows in groupby(EXPORTED, key=lambda one: one.exporter):
        parts.append(f"## {_SECTIONS[exporter]}\n")
        parts.append("| metric | type | labels | meaning |\n|---|---|---|---|")
        parts += [_row(one) for one in rows]
        parts.append("")
    return "\n".join(parts)


def _row(one: Exported) -> str:
    labels = ", ".join(f"`{label}`" for label in one.labels)
    bounds = f" Buckets: {', '.join(f'{bound:g}' for bound in one.buckets)}." if one.buckets else ""
    cells = (f"`{one.name}`", one.kind, labels, f"{one.meaning}.{bounds}")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(render())
