"""What saves memory changes no update: offload, packing, recomputation, chunks of logits; with LoRA and without.

Ranks have different numbers of chunks, so one that gathered the head's weight once a chunk would hang.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")
pytest.importorskip("peft")

from dapo.host.ports import free_port  # noqa: E402
from tests.support.models import tiny_model  # noqa: E402
from tests.support.paths import REPO  # noqa: E402

RANK = REPO / "tests" / "support" / "learner" / "memory_rank.py"

LORA = {"rank": 3, "alpha": 6.0}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"packed": True},
    "optimizer-offload-1": {"training": {"zero_stage": 1, "offload": "optimizer"}},
    "optimizer-offload-2": {"training": {"zero_stage": 2, "offload": "optimizer"}},
    "stage-3": {"training": {"zero_stage": 3}},
    "parameter-offload": {"training": {"zero_stage": 3, "offload": "parameters"}, "packed": True},
    "recompute-3": {"training": {"zero_stage": 3}, "model": {"gradient_checkpointing": True}},
    "lora": {"lora": LORA},
    "lora-recompute-packed": {"lora": LORA, "model": {"gradient_checkpointing": True}, "packed": True},
    "lora-offload-2": {"lora": LORA, "training": {"zero_stage": 2, "offload": "optimizer"}},
    "lora-3": {"lora": LORA, "training": {"zero_stage": 3}},
    "lora-3-offload": {"lora": LORA, "training": {"zero_stage": 3, "offload": "parameters"}, "packed": True},
    "lora-resumed": {"lora": LORA, "resume": True},
    "lora-3-resumed": {"lora": LORA, "training": {"zero_stage": 3}, "resume": True},
    "offload-resumed": {"training": {"zero_stage": 3, "offload": "parameters"}, "resume": True},
}


def make_case(fields: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "model": {"path": "/unused", **fields.get("model", {})},
        "data": {"path": "unused.jsonl"},
        # With its usual epsilon AdamW's first step is the gradient's sign, and that of a rounding error counts in full.
        "optimizer": {"learning_rate": 0.1, "epsilon": 0.01, "warmup_steps": 0},
        "training": fields.get("training", {}),
        "lora": fields.get("lora", {}),
    }
    return {"spec": spec, "packed": fields.get("packed", False), "resume": fields.get("resume", False)}


def run_ranks(folder: Path, ranks: int) -> dict[str, dict[str, Any]]:
    (folder / "cases.json").write_text(json.dumps([make_case(fields) for fields in CASES.values()]))
    command = [sys.executable, str(RANK), str(folder / "cases.json"), str(folder / "out.json")]
    common = {
        **os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=300)[1] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return dict(zip(CASES, json.loads((folder / "out.json").read_text()), strict=True))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, Any]]]:
    """Results by number of ranks and case."""
    return {ranks: run_ranks(tmp_path_factory.mktemp(f"ranks{ranks}"), ranks) for ranks in (1, 2)}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_updates_and_served_weights_are_the_same(
    found: dict[int, dict[str, dict[str, Any]]], case: str, ranks: int
) -> None:
    result, wanted = found[ranks][case], found[1]["lora" if case.startswith("lora") else "plain"]
    assert result["norms"] == pytest.approx(wanted["norms"], rel=1e-5)
    assert result["weights"].keys() == wanted["weights"].keys()
    for name, values in wanted["weights"].items():
        torch.testing.assert_close(
            torch.tensor(result["weights"][name]), torch.tensor(values), rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_generators_get_the_served_weights(found: dict[int, dict[str, dict[str, Any]]], case: str, ranks: int) -> None:
    result = found[ranks][case]
    assert result["sent"] == [value for values in result["weights"].values() for value in values]


def test_lora_moves_its_layers_and_leaves_the_others(found: dict[int, dict[str, dict[str, Any]]]) -> None:
    served = found[1]["lora"]["weights"]
    for name, parameter in tiny_model("qwen2", seed=0).named_parameters():
        adapted = name.endswith("proj.weight")
        assert (served[name] != parameter.flatten().tolist()) == adapted, name
