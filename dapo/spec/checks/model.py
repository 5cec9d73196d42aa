"""What no single field of `model` can tell: the form of its path, and whether sequences fit the model's context.

Loading a spec does not look for the model; `missing_model` and `unfit_model` do.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dapo.spec.context import CONTEXT_RESERVE_TOKENS, context_tokens
from dapo.spec.paths import is_local_model
from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import shown


def model_path(spec: RunTree) -> Iterator[Problem]:
    if "\0" in spec.model.path:
        yield Problem("model.path", shown(spec.model.path.replace("\0", "\\0")), "holds a NUL character. Take it out")


def missing_model(spec: RunTree) -> Iterator[Problem]:
    """Whether the model is on this machine; a hub name is not looked up."""
    if is_local_model(spec.model.path) and not _config(spec).is_file():
        yield Problem(
            "model.path", spec.model.path, "holds no config.json. Give a model directory in Hugging Face format"
        )


def unfit_model(spec: RunTree) -> Iterator[Problem]:
    """Whether the model, where it is on this machine, takes sequences as long as the spec's."""
    if not (is_local_model(spec.model.path) and _config(spec).is_file()):
        return
    try:
        config = json.loads(_config(spec).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield Problem("model.path", spec.model.path, f"holds a config.json that cannot be read: {error}. Fetch it anew")
    else:
        yield from context(spec, context_tokens(config) if isinstance(config, dict) else None)


def _config(spec: RunTree) -> Path:
    return Path(spec.model.path) / "config.json"


def context(spec: RunTree, tokens: int | None) -> Iterator[Problem]:
    """Whether the longest prompt and the longest response fit a context of so many tokens; None where it is unknown."""
    prompt, response = spec.data.max_prompt_tokens, spec.sampling.max_response_tokens
    if tokens is None or spec.longest_sequence + CONTEXT_RESERVE_TOKENS <= tokens:
        return
    room = tokens - CONTEXT_RESERVE_TOKENS
    cures = []
    if room > prompt:
        cures.append(f"at most {room - prompt}")
    if room > response:
        cures.append(f"data.max_prompt_tokens to at most {room - response}")
    yield Problem(
        "sampling.max_response_tokens",
        str(response),
        f"does not fit the context of {spec.model.path}, {tokens} tokens, of which SGLang uses all but "
        f"{CONTEXT_RESERVE_TOKENS}, beside data.max_prompt_tokens = {prompt}. "
        f"Set {' or '.join(cures) or f'both, to no more than {room} together'}",
    )
