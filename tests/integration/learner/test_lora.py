"""A checkpoint under LoRA resumes exactly; its export is the merged model, and it holds the adapter for PEFT."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")
pytest.importorskip("peft")

from tests.support.learner.kit import make_spec, model_directory, run_ranks  # noqa: E402


@pytest.mark.parametrize(("stage", "ranks"), [pytest.param(0, 1, marks=pytest.mark.slow), (3, 2)])
def test_lora_resumes_exactly_and_exports_the_merged_model(tmp_path: Path, stage: int, ranks: int) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from services.learner.export import export

    model_dir = model_directory(tmp_path)
    spec: dict[str, Any] = make_spec(model_dir, stage=stage, kl_coefficient=0.01, reference_refresh_steps=1)
    spec["lora"] = {"rank": 4, "alpha": 8.0}
    spec["model"]["gradient_checkpointing"] = True
    case = {"spec": spec, "batches": 3, "samples": 24, "checkpoint_after": 2}
    whole, resumed = run_ranks(tmp_path, [case, {**case, "resume": True, "checkpoint_after": 3}], ranks)
    assert resumed["parameters"] == whole["parameters"]
    assert export(tmp_path, tmp_path / "exported").step == 3

    initial = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).state_dict()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32).state_dict()
    assert exported.keys() == initial.keys()
    for name, weight in exported.items():
        assert torch.equal(weight, initial[name]) == (not name.endswith("proj.weight")), name

    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(
        base, tmp_path / "checkpoints" / "step-000003.e1" / "adapter"
    ).merge_and_unload()
    for name, weight in adapted.state_dict().items():
        torch.testing.assert_close(weight, exported[name], msg=name)
