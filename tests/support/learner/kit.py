"""Learner ranks as processes, for tests of what they compute."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dapo.host.ports import free_port
from dapo.spec.tree.resources import Device
from tests.support.paths import REPO

RANK = Path(__file__).with_name("rank.py")


def model_directory(parent: Path) -> Path:
    """A random toy model in a directory of its own."""
    from services.learner.starters.toy import char_tokenizer, tiny_qwen2

    target = parent / "model"
    tokenizer = char_tokenizer()
    tokenizer.save_pretrained(target)
    tiny_qwen2(tokenizer, seed=0).save_pretrained(target)
    return target


def run_ranks(tmp_path: Path, cases: list[dict[str, Any]], ranks: int, device: Device = "cpu") -> list[dict[str, Any]]:
    """Of each case the metrics by batch and a digest of the parameters; one start of the ranks for all cases."""
    (tmp_path / "cases.json").write_text(json.dumps([{"run_dir": str(tmp_path), **case} for case in cases]))
    port = str(free_port())
    processes = []
    for rank in range(ranks):
        environment = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO),
            "DS_ACCELERATOR": device,  # rank.py imports DeepSpeed before it joins.
        }  # fmt: skip
        command = [sys.executable, str(RANK), str(tmp_path / "cases.json"), str(tmp_path / "out.json"), device]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate(timeout=300)[1] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return json.loads((tmp_path / "out.json").read_text())


def make_spec(model_dir: Path, *, stage: int = 0, budget: int = 10_000, **algorithm: Any) -> dict[str, Any]:
    return {
        "model": {"path": str(model_dir)},
        "data": {"path": "train.jsonl"},
        "sampling": {"group_size": 24, "max_response_tokens": 16},
        "reward": {"overlong_buffer_tokens": 4},
        "algorithm": algorithm,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
        "training": {
            "prompts_per_step": 1, "updates_per_step": 2, "zero_stage": stage, "max_tokens_per_micro_batch": budget,
        },
    }  # fmt: skip
