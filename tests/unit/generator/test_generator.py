"""The generator's pure parts: responses and spans, request ids, limits, flags, batched attention."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma2Config, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from dapo.algo.vocabulary import MASKED_LOGIT
from dapo.bus import RETRIES, attempt_number
from dapo.spec import RunSpec
from dapo.spec.context import context_tokens
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import SamplingParams
from services.generator.engine.kv_pool import pool_tokens, token_bytes
from services.generator.engine.model_check import UnsupportedModel, check_served, read_config
from services.generator.engine.responses import EngineError, Span, StreamedResponse, addressee, covers, parse_event
from services.generator.engine.server import (
    _CPU_MALLOC,
    ServerError,
    engine_device,
    server_environment,
    server_flags,
)
from services.generator.jobs import request_id
from services.generator.membership import parse_version, version_name
from services.generator.tokens import PromptError, check_length


def event(ids: list[int], finish: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    entries = [[-0.5, token, None] for token in ids]
    return {"output_ids": ids, "meta_info": {"finish_reason": finish, "output_token_logprobs": entries, **meta}}


def spans(*cuts: int) -> list[dict[str, Any]]:
    return [{"version": f"1.{i}", "start": start, "end": end} for i, (start, end) in enumerate(pairwise(cuts))]


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_response_is_the_sum_of_its_events(parts: list[list[int]]) -> None:
    total = sum(map(len, parts))
    response = StreamedResponse("r")
    for part in parts[:-1]:
        assert response.extend(event(part)) == len(part)
        assert response.finish is None
    last = event(parts[-1], {"type": "stop"}, completion_tokens=total, weight_versions=spans(0, total))
    response.extend(last)
    assert response.ids == [token for part in parts for token in part]
    assert len(response.logprobs) == total
    assert (response.finish, response.spans) == ("stop", [Span("1.0", 0, total)])


@pytest.mark.parametrize(
    ("tokens", "cuts"),
    [(4, (0, 3)), (3, (0, 2)), (3, (1, 3)), (3, (0, 3, 3)), (2, (0, 3))],
    ids=["count", "short spans", "late spans", "empty span", "fewer announced"],
)
def test_a_response_whose_counts_disagree_is_refused(tokens: int, cuts: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="request r"):
        StreamedResponse("r").extend(
            event([1, 2, 3], {"type": "length"}, completion_tokens=tokens, weight_versions=spans(*cuts))
        )


def test_logprobs_of_other_tokens_are_refused() -> None:
    odd = event([1, 2])
    odd["meta_info"]["output_token_logprobs"][1][1] = 7
    with pytest.raises(EngineError, match="log-probabilities"):
        StreamedResponse("r").extend(odd)
    with pytest.raises(EngineError, match="log-probabilities"):
        StreamedResponse("r").extend({**odd, "output_ids": [1]})


@pytest.mark.parametrize("logprob", [None, float("nan"), float("-inf"), "x"])
def test_a_logprob_that_is_no_finite_number_is_refused(logprob: Any) -> None:
    odd = event([1, 2])
    odd["meta_info"]["output_token_logprobs"][1][0] = logprob
    with pytest.raises(EngineError, match="request r"):
        StreamedResponse("r").extend(odd)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"meta_info": None},
        {"output_ids": [1], "meta_info": {"finish_reason": None}},
        {"output_ids": None, "meta_info": {"finish_reason": None, "output_token_logprobs": None}},
        event([1], {"type": "length"}, completion_tokens=1),
        event([1], {"type": "length"}, completion_tokens=1, weight_versions=[{"version": "1.0"}]),
        event([], {"type": "length"}, completion_tokens=0, weight_versions=[]),
        event([1], {"type": "tool"}, completion_tokens=1, weight_versions=spans(0, 1)),
        event([1], {}, completion_tokens=1, weight_versions=spans(0, 1)),
        event([-1]),
    ],
)
def test_events_of_another_kind_are_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="request r"):
        StreamedResponse("r").extend(odd)


@pytest.mark.parametrize("odd", [b"", b"{", b'{"a": NaN}', b"[1]", b'{"error": null}', b'{"error": {"message": "m"}}'])
def test_an_event_must_be_an_object_that_tells_of_no_failure(odd: bytes) -> None:
    with pytest.raises(EngineError, match="/generate"):
        parse_event("/generate", odd)


@pytest.mark.parametrize("odd", [{}, {"meta_info": []}, {"meta_info": {}}, {"meta_info": {"id": "other"}}])
def test_an_event_for_nobody_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="was not asked"):
        addressee(odd, {"r": StreamedResponse("r")})


def test_what_an_abort_repeats_is_dropped() -> None:
    response = StreamedResponse("r", ids=[1], logprobs=[-0.5])
    assert response.extend(event([1], {"type": "abort", "message": "gone"})) == 0
    assert (response.ids, response.finish, response.message) == ([1], "abort", "gone")


@given(st.lists(st.integers(1, 9), min_size=1))
def test_spans_cover_a_response_only_without_gap_or_overlap(lengths: list[int]) -> None:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    whole = [Span("v", end - length, end) for end, length in zip(ends, lengths, strict=True)]
    assert covers(whole, ends[-1])
    assert not covers(whole, ends[-1] + 1)
    assert not covers(whole[1:], ends[-1])
    assert not covers([*whole, whole[-1]], ends[-1])


@given(st.integers(0, 10**10 - 1), st.integers(0, 9999), st.integers(1, 1000), st.integers(0, RETRIES - 1))
def test_request_ids_have_one_width(group: int, index: int, delivery: int, retry: int) -> None:
    assert len(request_id(f"g{group:010d}", index, attempt_number(delivery, retry))) == 21


def test_attempts_of_different_deliveries_differ() -> None:
    numbers = [attempt_number(delivery, retry) for delivery in range(1, 9) for retry in range(RETRIES)]
    assert numbers == list(range(8 * RETRIES))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63))
def test_version_names_come_back(incarnation: int, step: int) -> None:
    version = pb.Version(incarnation=incarnation, step=step)
    assert parse_version(version_name(version)) == version


def test_weights_without_a_version_have_no_version_name() -> None:
    with pytest.raises(ValueError, match="unpack"):
        parse_version("base")


def test_prompts_have_tokens_and_not_too_many() -> None:
    check_length(10, limit=10)
    for tokens, reason in ((0, "prompt_empty"), (11, "prompt_too_long")):
        with pytest.raises(PromptError) as caught:
            check_length(tokens, limit=10)
        assert caught.value.reason == reason


def make_spec(**generator: Any) -> RunSpec:
    return RunSpec.model_validate(
        {"model": {"path": "m"}, "data": {"path": "d.jsonl"}, "resources": {"generator": generator}}
    )


def pairs(flags: list[str]) -> dict[str, str]:
    return {name: value for name, value in zip(flags, [*flags[1:], ""], strict=True) if name.startswith("--")}


def flags(device: str, pool: int | None = None, **generator: Any) -> dict[str, str]:
    return pairs(server_flags(make_spec(**generator), device=device, port=5, pool=pool))


def test_flags_follow_the_spec() -> None:
    cpu = flags("cpu", 30000, stream_interval=3, max_running_requests=77)
    assert (cpu["--stream-interval"], cpu["--max-running-requests"], cpu["--port"]) == ("3", "77", "5")
    assert (cpu["--device"], cpu["--dtype"], cpu["--max-total-tokens"]) == ("cpu", "float32", "30000")
    assert "--disable-overlap-schedule" in cpu
    cuda = flags("cuda", tensor_parallel=2)
    assert (cuda["--device"], cuda["--tp-size"]) == ("cuda", "2")
    assert not {"--max-total-tokens", "--disable-overlap-schedule"} & cuda.keys()


@pytest.mark.parametrize(("visible", "named"), [("0,1", False), ("GPU-ab,GPU-cd", True), ("MIG-GPU-ab/1/0", True)])
def test_gpus_with_names_go_without_the_all_reduce_that_reads_numbers(
    monkeypatch: pytest.MonkeyPatch, visible: str, named: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ("--disable-custom-all-reduce" in flags("cuda", tensor_parallel=2)) == named


@pytest.mark.parametrize(("device", "wanted", "kept"), [("cpu", None, False), ("cuda", None, True)])
def test_the_prefix_cache_is_for_gpus_unless_the_spec_says_otherwise(
    device: str, wanted: bool | None, kept: bool
) -> None:
    assert ("--disable-radix-cache" not in flags(device, prefix_cache=wanted)) == kept
    assert "--disable-radix-cache" not in flags(device, prefix_cache=True)
    assert "--disable-radix-cache" in flags(device, prefix_cache=False)


def test_the_kv_pool_of_a_cpu_holds_all_responses_as_far_as_memory_goes() -> None:
    spec = make_spec(max_running_requests=10)
    longest = spec.longest_sequence
    assert pool_tokens(spec, 1000, 1 << 50) == 10 * longest
    assert pool_tokens(spec, 1000, 8 * 1000 * (longest + 70)) == longest + 70
    assert pool_tokens(make_spec(max_running_requests=10, replicas=2), 1000, 16 * 1000 * (longest + 70)) == longest + 70
    assert pool_tokens(spec, 1000, 8) == spec.smallest_pool
    config = Qwen2Config(num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    assert token_bytes(config, "float32") == 2 * 3 * 2 * 8 * 4
    assert token_bytes(Qwen3Config(num_hidden_layers=3, num_key_value_heads=2, head_dim=32), "bfloat16") == 768


def test_only_a_hub_name_may_reach_for_the_hub(tmp_path: Path) -> None:
    local = make_spec().model_copy(update={"model": make_spec().model.model_copy(update={"path": str(tmp_path)})})
    assert server_environment(local, device="cpu")["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in server_environment(make_spec(), device="cpu")


def test_a_users_own_malloc_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert server_environment(make_spec(), device="cpu")["GLIBC_TUNABLES"] == _CPU_MALLOC
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert server_environment(make_spec(), device="cpu")["GLIBC_TUNABLES"] == f"{_CPU_MALLOC}:glibc.malloc.hugetlb=0"
    assert "GLIBC_TUNABLES" not in server_environment(make_spec(), device="cuda")


FOUR_K = {"max_position_embeddings": 4096}
WINDOWED = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 0}


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        (MistralConfig(sliding_window=4096), ("cpu", "cuda")),
        (Qwen2Config(**WINDOWED), ("cpu", "cuda")),
        (Qwen3Config(**WINDOWED), ("cpu", "cuda")),
        (Gemma2Config(sliding_window=4096, max_position_embeddings=32_768), ("cpu",)),
        (MistralConfig(sliding_window=None), ()),
        (MistralConfig(sliding_window=22_528), ()),
        (Qwen2Config(use_sliding_window=False, sliding_window=4096), ()),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_window_that_the_engine_would_ignore_is_refused(config: PretrainedConfig, refused: tuple[str, ...]) -> None:
    spec = make_spec()
    assert spec.longest_sequence == 22_528
    for device in ("cpu", "cuda"):
        if device in refused:
            with pytest.raises(UnsupportedModel, match=r"model\.path m: .* looks back on 4096 tokens"):
                check_served(spec, config, device)
        else:
            check_served(spec, config, device)


def test_a_context_that_is_too_short_is_refused_also_of_a_hub_model_which_the_spec_could_not_tell() -> None:
    with pytest.raises(UnsupportedModel, match=r"max_response_tokens = 20480: does not fit the context of m, 22529"):
        check_served(make_spec(), Qwen2Config(max_position_embeddings=22_529), "cuda")
    check_served(make_spec(), Qwen2Config(max_position_embeddings=22_530), "cuda")


YARN = {"type": "yarn", "factor": 4.0}
CONTEXTS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({"model_type": "qwen2", "max_position_embeddings": 1000}, 1000),
    "null": ({"model_type": "qwen3", "max_position_embeddings": 40_960, "rope_scaling": None}, 40_960),
    "linear": ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}, **FOUR_K}, 8192),
    "dynamic": ({"model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "factor": 2.5}, **FOUR_K}, 10_240),
    "yarn": ({"model_type": "qwen2", "rope_scaling": YARN, **FOUR_K}, 4096),
    "yarn with its origin": (
        {"model_type": "qwen2", "rope_scaling": {**YARN, "original_max_position_embeddings": 1024}, **FOUR_K}, 4096
    ),
    "llama 3": (
        {
            "model_type": "llama",
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 1024},
            **FOUR_K,
        },
        4096,
    ),
    "mrope": ({"model_type": "qwen2", "rope_scaling": {"type": "mrope", "mrope_section": [2]}, **FOUR_K}, 4096),
    "window": ({"model_type": "mistral", "sliding_window": 512, **FOUR_K}, 4096),
    "text model": ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **FOUR_K}}, 4096),
    "gpt2": ({"model_type": "gpt2", "n_positions": 1024}, 1024),
}  # fmt: skip


@pytest.mark.parametrize(("written", "tokens"), CONTEXTS.values(), ids=CONTEXTS)
def test_the_context_is_what_sglang_makes_of_the_configuration_as_written_and_as_completed(
    tmp_path: Path, written: dict[str, Any], tokens: int
) -> None:
    from sglang.srt.utils.hf_transformers.common import get_context_length

    (tmp_path / "config.json").write_text(json.dumps(written))
    completed = read_config(str(tmp_path))
    assert context_tokens(written) == context_tokens(completed.to_dict()) == get_context_length(completed) == tokens


def test_a_model_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=f"model.path {tmp_path}"):
        read_config(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(UnsupportedModel, match="no-such-architecture"):
        read_config(str(tmp_path))


def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert engine_device("auto", 1) == engine_device("cpu", 1) == "cpu"
    with pytest.raises(ServerError, match=r"resources\.generator\.device"):
        engine_device("cuda", 1)
    with pytest.raises(ServerError, match=r"tensor_parallel = 2 .*auto"):
        engine_device("auto", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert (engine_device("auto", 2), engine_device("cuda", 2), engine_device("cpu", 1)) == ("cuda", "cuda", "cpu")


def test_masked_ids_and_stop_strings_reach_the_engine() -> None:
    plain = SamplingParams(1.0, 8, (3,)).to_json()
    assert (plain["stop"], plain["logit_bias"]) == ([], None)
    asked = SamplingParams(1.0, 8, (3,), stop=("</answer>",), masked=(5, 9)).to_json()
    assert (asked["stop"], asked["logit_bias"]) == (["</answer>"], {"5": MASKED_LOGIT, "9": MASKED_LOGIT})


def test_only_stop_strings_need_a_tokenizer_in_the_engine() -> None:
    stopping = RunSpec.model_validate(
        {"model": {"path": "m"}, "data": {"path": "d.jsonl"}, "sampling": {"stop": ["</answer>"]}}
    )
    for spec, needed in ((make_spec(), False), (stopping, True)):
        assert ("--skip-tokenizer-init" in server_flags(spec, device="cuda", port=1, pool=None)) != needed
