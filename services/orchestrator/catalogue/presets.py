"""Presets of `algorithm`, and the JSON Schema of a spec."""

from functools import cache
from typing import Any

import dapo
from dapo.spec.run import RunSpec
from dapo.spec.tree.algorithm import GROUP_SIZES, PRESETS, AlgorithmSpec

_DESCRIPTIONS = {
    "dapo": "DAPO (arXiv 2503.14476): Clip-Higher, dynamic sampling, token-mean loss, soft overlong punishment, no KL.",
    "grpo": "GRPO (arXiv 2402.03300): symmetric clipping, loss averaged by response, a KL term in the loss.",
    "ppo": "PPO (arXiv 1707.06347): a value network and GAE (arXiv 1506.02438), one response a prompt.",
    "verl-parity": "DAPO as verl computes it, to compare with it: sample deviation, dual clip, the exact grader.",
}


def presets() -> list[dict[str, Any]]:
    """Of each: name, description, and the value of each field that any preset sets, by its path in a spec."""
    plain = AlgorithmSpec().model_dump(mode="json")
    fields = [name for name in plain if any(name in preset for preset in PRESETS.values())]
    return [
        {
            "name": name,
            "description": _DESCRIPTIONS[name],
            "fields": {f"algorithm.{field}": preset.get(field, plain[field]) for field in fields}
            | {"sampling.group_size": GROUP_SIZES[name]},
        }
        for name, preset in PRESETS.items()
    ]


@cache
def spec_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a spec, with meanings and defaults: what editors complete and check with. A spec that
    fits it may still contradict itself."""
    found = RunSpec.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:dapo:spec:{dapo.__version__}",
        **found,
        "title": "The spec of a run",
    }
