"""A whole run with its learner on the GPU in bfloat16 and simulated engines that take its weights.

Without CUDA's engine (SGLang) generation is simulated; all else is real: services, Valkey, DeepSpeed, checkpoints, the
weight channel. The learner is killed once and goes on from a checkpoint.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from benchmarks.survival import platform, runs  # noqa: E402
from benchmarks.survival.strikes import Strike, strike  # noqa: E402
from tests.support.models import hundred_million, save, save_model  # noqa: E402
from tests.support.nccl import may_share_a_gpu  # noqa: E402
from tests.support.simulator.processes import RECEIVED  # noqa: E402

pytestmark = pytest.mark.timeout(400)
ROWS = [{"prompt": "abc" + letter + ">", "answer": letter} for letter in "abcdefghijklmnopqrstuvwxyz"]


def train(
    folder: Path, spec: runs.Spec, *, kill_after: int | None = None, **engine: float
) -> tuple[platform.FinishedRun, list[dict[str, Any]]]:
    """The finished run, and what its engines were sent, in order."""
    received = folder / "received"
    received.mkdir(parents=True)
    struck = []

    def tick(pid: int, steps: int) -> None:
        if kill_after is not None and steps >= kill_after and not struck:
            assert strike(pid, Strike(steps, "learner", "kill"))
            struck.append(steps)

    settings = runs.simulator(**engine)
    settings["environment"][RECEIVED] = str(received)
    finished = platform.train(folder / "service", spec, tick, stall_s=150.0, **settings)
    assert len(struck) == (kill_after is not None)
    lines = [json.loads(line) for path in received.iterdir() for line in path.read_text().splitlines()]
    return finished, lines


def spec_of(folder: Path, steps: int, *, backend: str = "auto", **sections: runs.Spec) -> runs.Spec:
    """A run on the model in `folder`, one generator, the learner on the GPU in bfloat16."""
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    spec = runs.simulated(
        folder,
        steps,
        model={"dtype": "bfloat16"},
        checkpoint={"every_steps": 2},
        weight_sync={"backend": backend, "join_deadline_s": 60.0, "update_deadline_s": 60.0},
        **sections,
    )
    spec["resources"] |= {"generator": {"replicas": 1}, "learner": {"device": "cuda"}}
    return spec


def checkpoint_hashes(run: platform.FinishedRun, step: int) -> dict[str, str]:
    """SHA-256 of each weight of the Hugging Face copy in the checkpoint of that step."""
    from safetensors.torch import load_file

    (path,) = (run.folder / "checkpoints").glob(f"step-{step:06d}.*/hf/model.safetensors")
    tensors = load_file(path)
    return {
        name: hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def check(run: platform.FinishedRun, received: list[dict[str, Any]], spec: runs.Spec, backend: str) -> None:
    steps = spec["training"]["steps"]
    assert run.violations(runs.promise(spec)) == []
    assert [row["step"] for row in run.rows] == list(range(1, steps + 1))
    assert {line["backend"] for line in received} == {backend}
    last = max(received, key=lambda line: int(line["version"].split(".")[-1]))
    sent, kept = last["tensors"], checkpoint_hashes(run, steps)
    assert sent
    assert {name: kept[name] for name in sent} == sent


def backend_here() -> str:
    """NCCL where learner and engine have a GPU each, or may share one; else gloo."""
    return "nccl" if torch.cuda.device_count() > 1 or may_share_a_gpu() else "gloo"


def test_a_learner_on_the_gpu_is_killed_and_the_run_goes_on(tmp_path: Path, figures: Any) -> None:
    save_model(tmp_path / "model", seed=1)
    backend = backend_here()
    spec = spec_of(tmp_path, 8, backend=backend)
    run, received = train(tmp_path, spec, kill_after=5, step_s=0.01, mean_tokens=60.0)
    check(run, received, spec, backend)
    assert run.summary["restarts"] >= 1
    figures(restarts=run.summary["restarts"], replay_differs=run.alerts("replay_differs"), backend=backend)


def test_a_hundred_million_parameters_on_long_sequences(tmp_path: Path, figures: Any) -> None:
    """Sequences of 2,500 tokens in the mean, 4,096 at most; what a step takes is the run's own account."""
    save(hundred_million(), tmp_path / "model")
    backend = backend_here()
    spec = spec_of(
        tmp_path,
        4,
        backend=backend,
        sampling={"max_response_tokens": 4096},
        training={"max_tokens_per_micro_batch": 32_768},
        asynchrony={"max_staleness": 1},
    )
    run, received = train(tmp_path, spec, step_s=0.002, mean_tokens=2500.0, sigma=0.4)
    check(run, received, spec, backend)
    names = ("train_s", "step_s", "trained_tokens", "weight_sync_s", "weight_pause_s", "response_length_mean")
    figures(**{name: [row[name] for row in run.rows] for name in names})
