"""Refusals of the training section that are about memory, by field, value and cure."""

from typing import Any

import pytest
from pydantic import ValidationError

from dapo.spec.checks.all import find_warnings
from tests.support.spec import spec


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"training__offload": "optimizer"}, ["training.offload = optimizer", "zero_stage = 0", "zero_stage: 1"]),
        (
            {"training__offload": "parameters", "training__zero_stage": 2},
            ["training.offload = parameters", "zero_stage = 2", "zero_stage: 3"],
        ),
        (
            {"training__sequence_parallel": 2},
            ["training.sequence_parallel = 2", "not implemented", "Set 1", "offload", "packing"],
        ),
        (
            {"resources__generator__start_deadline_s": 1800},
            ["weight_sync.no_generator_s = 1200", "1800 + 60 + 120", "Set at least 1980"],
        ),
        (
            {"weight_sync__in_flight": "drain", "weight_sync__drain_s": 500.0},
            ["weight_sync.no_generator_s = 1200", "weight_sync.drain_s = 600 + 60 + 120 + 500", "Set at least 1280"],
        ),
        (
            {"resources__restarts__stall_s": 400},
            ["resources.restarts.stall_s = 400", "start_deadline_s = 600", "Set at least 600"],
        ),
        (
            {"resources__restarts__stall_s": 3600, "resources__restarts__wait_alert_s": 4000},
            ["resources.restarts.stall_s = 3600", "resources.restarts.wait_alert_s = 4000"],
        ),
        (
            {
                "resources__restarts__stall_s": 1200,
                "reward__graders": {"away": {"type": "remote", "url": "http://a", "timeout_s": 10.0, "retries": 1}},
            },
            ["resources.restarts.stall_s = 1200", "reward.graders.away", "half an hour", "= 1965", "Set at least 1965"],
        ),
        (
            {"resources__redis__outage_s": 541},
            ["resources.redis.outage_s = 541", "carried out twice", "Set at most 540"],
        ),
        ({"lora__alpha": 16.0}, ["lora.alpha = 16.0", "lora.rank = null", "Set lora.rank"]),
        ({"lora__target_modules": "q_proj"}, ["lora.target_modules = q_proj", "lora.rank = null"]),
        ({"lora__rank": 0}, ["lora.rank"]),
        (
            {"lora__rank": 4, "lora__serving": "adapter", "lora__target_modules": "q_proj,k_proj"},
            ["lora.target_modules = q_proj,k_proj", "both q_proj and v_proj", "lora.serving: merged"],
        ),
        (
            {"lora__rank": 4, "lora__serving": "adapter", "lora__target_modules": "up_proj"},
            ["lora.target_modules = up_proj", "up_proj alone", "lora.serving: merged"],
        ),
        (
            {"lora__rank": 4, "lora__serving": "adapter", "lora__target_modules": "q_proj,v_proj,c_attn"},
            ["lora.target_modules = q_proj,v_proj,c_attn", "not of c_attn", "lora.serving: merged"],
        ),
        ({"lora__serving": "merged"}, ["lora.serving = merged", "lora.rank = null"]),
        (
            {"lora__rank": 4, "lora__target_modules": "all-linear,q_proj"},
            ["lora.target_modules = all-linear,q_proj", "Set all-linear alone"],
        ),
        ({"training__packing": "yes"}, ["training.packing"]),
    ],
)
def test_refusals_name_field_value_and_cure(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as refusal:
        spec(**fields)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"training__offload": "optimizer", "training__zero_stage": 1},
        {"training__offload": "parameters", "training__zero_stage": 3},
        {"lora__rank": 8, "lora__alpha": 16.0, "lora__target_modules": "q_proj"},
        {"training__packing": "on"},
    ],
)
def test_their_neighbours_pass(fields: dict[str, Any]) -> None:
    spec(**fields)


@pytest.mark.parametrize(
    ("fields", "model_type", "served"),
    [
        ({}, "qwen2", False),
        ({"lora__rank": 4}, "qwen2", False),
        ({"lora__rank": 4, "lora__serving": "adapter"}, "qwen2", True),
        ({"lora__rank": 4, "lora__serving": "adapter"}, "gpt2", True),
        ({"lora__rank": 4, "model__dtype": "bfloat16"}, "qwen2", True),
        ({"lora__rank": 4, "model__dtype": "bfloat16"}, "gpt2", False),
        ({"lora__rank": 4, "model__dtype": "bfloat16", "lora__target_modules": " all-linear "}, "qwen2", True),
        ({"lora__rank": 4, "model__dtype": "bfloat16", "lora__target_modules": "qkv_proj, o_proj"}, "phi3", True),
        ({"lora__rank": 4, "model__dtype": "bfloat16", "lora__serving": "merged"}, "qwen2", False),
        ({"lora__rank": 4, "model__dtype": "bfloat16", "lora__target_modules": "k_proj"}, "qwen2", False),
    ],
)
def test_an_adapter_is_served_apart_where_bfloat16_would_swallow_it(
    fields: dict[str, Any], model_type: str, served: bool
) -> None:
    assert spec(**fields).serves_adapter(model_type) == served


def test_zero_on_one_rank_is_no_waste_where_it_offloads() -> None:
    def warned(**fields: Any) -> bool:
        return "training.zero_stage" in [problem.field for problem in find_warnings(spec(**fields))]

    assert warned(training__zero_stage=1)
    assert not warned(training__zero_stage=1, training__offload="optimizer")
