"""`dapo export` of a LoRA run: what bfloat16 weights swallow of the adapter, and the ways that keep it."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from dapo.spec.load import dump_yaml  # noqa: E402
from dapo.spec.tree.training import LoraSpec  # noqa: E402
from services.learner.export import ExportError, export, export_adapter, main  # noqa: E402
from services.learner.model.lora import Rounding, adapter_weights, add_lora, served_weights, write_adapter  # noqa: E402
from tests.support.models import tiny_qwen2  # noqa: E402
from tests.support.spec import spec  # noqa: E402

LORA = LoraSpec(rank=3, alpha=6.0)


@pytest.fixture
def exact(tmp_path: Path) -> dict[str, "torch.Tensor"]:
    """The weights of a run's policy in float32; the run's checkpoint of step 3 has them as a learner in bfloat16
    writes them. The update is small beside the weights."""
    base = tmp_path / "base"
    tiny_qwen2(0).to(torch.bfloat16).save_pretrained(base)
    causal = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    add_lora(causal, LORA, seed=0)
    with torch.no_grad():
        for name, parameter in causal.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=2e-4)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000003"
    rounding = Rounding()
    merged = {name: weight.value(rounding) for name, weight in served_weights(causal).items()}
    tiny_qwen2(0).to(torch.bfloat16).save_pretrained(checkpoint / "hf", state_dict=merged)
    adapter = {name: weight.value() for name, weight in adapter_weights(causal).items()}
    write_adapter(checkpoint / "adapter", LORA, str(base), adapter)
    (checkpoint / "adapter" / "merging.json").write_text(json.dumps({"surviving_share": rounding.surviving_share}))
    files = {str(path.relative_to(checkpoint)): path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()}
    manifest = {"step": 3, "incarnation": 1, "seed": 0, "world_size": 1, "zero_stage": 1, "dtype": "bfloat16"}
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "files": files, "format": 1}))
    (checkpoint.parent / "latest.json").write_text(json.dumps({"directory": checkpoint.name}))
    (tmp_path / "run" / "spec.yaml").write_text(dump_yaml(spec(model__path=str(base), lora__rank=3, lora__alpha=6.0)))
    return {name: weight.value() for name, weight in served_weights(causal.float()).items()}


def load(directory: Path) -> dict[str, "torch.Tensor"]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    return dict(model.named_parameters())


def test_float32_keeps_all_of_the_update_and_bfloat16_says_what_it_loses(exact, tmp_path: Path) -> None:
    done = export(tmp_path / "run", tmp_path / "float32", "float32")
    assert (done.step, done.dtype, done.surviving_share) == (3, "float32", 1.0)
    found = load(tmp_path / "float32")
    assert found.keys() == exact.keys()
    for name, weight in exact.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-9, msg=name)
    assert json.loads((tmp_path / "float32" / "config.json").read_text())["dtype"] == "float32"

    done = export(tmp_path / "run", tmp_path / "bfloat16", "as-base")
    assert done.dtype == "bfloat16"
    assert 0 < done.surviving_share < 0.5
    for name, weight in load(tmp_path / "bfloat16").items():
        torch.testing.assert_close(weight.float(), exact[name], rtol=2**-7, atol=1e-5, msg=name)


def test_what_a_cast_loses_of_a_run_in_float32_is_told_too(exact, tmp_path: Path) -> None:
    """Such a run has merged in float32, losing nothing; the base model is in bfloat16, and so is its export."""
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000003"
    model = tiny_qwen2(0)
    model.load_state_dict(exact, strict=False)
    model.save_pretrained(checkpoint / "hf")
    (checkpoint / "adapter" / "merging.json").write_text(json.dumps({"surviving_share": 1.0}))
    files = {str(p.relative_to(checkpoint)): p.stat().st_size for p in checkpoint.rglob("*") if p.is_file()}
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    files.pop("manifest.json")
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "dtype": "float32", "files": files}))
    lost = export(tmp_path / "run", tmp_path / "bfloat16", "as-base")
    assert lost.dtype == "bfloat16"
    assert 0 < lost.surviving_share < 0.5
    assert export(tmp_path / "run", tmp_path / "float32", "float32").surviving_share == 1.0


def test_an_update_in_float16_is_measured_as_it_is_merged(exact, tmp_path: Path) -> None:
    done = export(tmp_path / "run", tmp_path / "float16", "float16")
    lost = sum(
        float((w.detach().float() - exact[name]).square().sum()) for name, w in load(tmp_path / "float16").items()
    )
    base = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).named_parameters())
    update = sum(float((exact[name] - weight).square().sum()) for name, weight in base.items())
    assert done.surviving_share == pytest.approx(1 - lost / update, abs=0.02)


def test_a_folder_that_was_there_stays_where_an_export_fails(exact, tmp_path: Path) -> None:
    (tmp_path / "base").rename(tmp_path / "moved")
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError):
        export(tmp_path / "run", tmp_path / "out", "float32")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_adapter_alone_is_what_peft_loads(exact, tmp_path: Path) -> None:
    assert export_adapter(tmp_path / "run", tmp_path / "out") == 3
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload()
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(weight, exact[name], rtol=1e-6, atol=1e-9, msg=name)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_without_the_base_model_the_cure_is_the_adapter(exact, tmp_path: Path) -> None:
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ExportError, match=r"is not here, into which the adapter is merged.*--adapter"):
        export(tmp_path / "run", tmp_path / "out", "float32")
    assert not (tmp_path / "out").exists()


def test_the_command_warns(exact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["export", str(tmp_path / "run"), str(tmp_path / "out"), "--dtype", "as-base"])
    main()
    told = capsys.readouterr()
    assert told.out == f"model of step 3 in bfloat16: {tmp_path / 'out'}\n"
    assert "of the LoRA update survives the rounding" in told.err
    assert "--dtype float32" in told.err
