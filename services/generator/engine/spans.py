"""SGLang tells with every event which weights have sampled a response so far; by itself it does with the last one only.

So the tokens of a response that is cut off, because its server dies, are of known versions. `pyproject.toml` registers
`activate` in the entry-point group `sglang.srt.plugins`; SGLang calls it in each process.
"""

import os
from typing import Any

_SWITCH = "DAPO_TELLS_SPANS"
"""Set in SGLang servers that a generator starts; no other server is touched."""
_EVENTS = "sglang.srt.managers.scheduler_components.output_streamer._GenerationStreamAccumulator.to_payload"


def spans_environment() -> dict[str, str]:
    """What makes `activate` act in the server."""
    return {_SWITCH: "1"}


def activate() -> None:
    """Have SGLang's events carry `meta_info.weight_versions`, each over all tokens of its request up to then."""
    if os.environ.get(_SWITCH) != "1":
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_EVENTS, fill_spans, HookType.BEFORE)


def fill_spans(events: Any, **_: Any) -> None:
    """Give the events of one scheduler step that are not the last of their requests the spans that these would have."""
    from sglang.srt.utils.weight_versions import compute_weight_version_spans

    told = zip(events.output_reqs, events.weight_versions, events.completion_tokens, strict=False)
    events.weight_versions = [
        compute_weight_version_spans(
            request.weight_version_events,
            current_version=events.current_weight_version,
            num_output_tokens=tokens,
        )
        if spans is None
        else spans
        for request, spans, tokens in told
    ]
