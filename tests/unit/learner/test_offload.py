"""`training.offload` as DeepSpeed reads it. That it changes no update: tests/integration/learner/test_memory.py."""

import pytest

pytest.importorskip("deepspeed")

from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from services.learner.step.engine import deepspeed_config
from tests.support.spec import spec


@pytest.mark.parametrize(
    ("stage", "offload", "optimizer", "parameters"),
    [(0, "none", None, None), (1, "optimizer", "cpu", None), (3, "parameters", "cpu", "cpu")],
)
def test_what_is_kept_in_the_hosts_memory(
    stage: int, offload: str, optimizer: str | None, parameters: str | None
) -> None:
    config = deepspeed_config(spec(training__zero_stage=stage, training__offload=offload), world_size=2)
    zero = DeepSpeedZeroConfig(**config["zero_optimization"])
    assert (zero.offload_optimizer.device if zero.offload_optimizer else None) == optimizer
    assert (zero.offload_param.device if zero.offload_param else None) == parameters
    assert config["zero_force_ds_cpu_optimizer"] is False
