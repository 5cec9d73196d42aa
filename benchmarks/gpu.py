"""The learner on one GPU against the GPU's own limits, measured in the same run.

    python benchmarks/gpu.py [--lengths 2048 4096] [--tokens 65536] [--repeat 5] [--json FILE]

    matrix product   bfloat16, 8192 × 8192 × 8192 on random data: the limit of arithmetic
    copy             1 GiB from device to device, bytes read and written: the limit of memory
    step             one step of the learner (DeepSpeed, bfloat16, one update) of 101 M parameters on sequences of one
                     length; `share` is its arithmetic, 6 per parameter and token and 12 · layers · width · keys for
                     attention (a token has half a sequence of keys), over the limit: MFU. Recomputation does not count
    weights          how fast 1 GiB reaches the host, and another process by gloo; by NCCL where the two may share this
                     GPU, whose time they also share then

Medians of `--repeat`, after one that does not count.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from machine import machine
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the model, which is the tests'.

from dapo.host.files import write_json
from dapo.host.ports import HOST
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.distributed import Ranks, join_ranks
from services.learner.rendezvous import open_store
from services.learner.step.payloads import TrainingSample
from services.learner.weights.transport import Backend, WeightGroup
from tests.support.learner.weight_peer import next_hash, peer
from tests.support.models import hundred_million, save
from tests.support.nccl import may_share_a_gpu, nccl_version

_SIDE = 8192
_GIB = 2**30
_PROMPT = 128
_DEADLINE_S = 120.0
Row = dict[str, object]


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Median over `repeat` calls of `work`, each until the device has finished."""
    times = []
    for _ in range(repeat + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def matmul_flops(repeat: int) -> float:
    """Per second."""
    left, right = (torch.randn(_SIDE, _SIDE, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    inner = 10
    return 2 * _SIDE**3 * inner / seconds(lambda: [left @ right for _ in range(inner)], repeat)


def copy_bytes(repeat: int) -> float:
    """Read and written, per second."""
    source = torch.randint(0, 256, (_GIB,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    inner = 10
    return 2 * _GIB * inner / seconds(lambda: [target.copy_(source) for _ in range(inner)], repeat)


def weight_rows(copy: float, repeat: int) -> list[Row]:
    data = torch.randint(0, 256, (_GIB,), dtype=torch.uint8, device="cuda")
    speeds = {"to the host": _GIB / seconds(data.cpu, repeat), "gloo": sending_speed("gloo", data, repeat)}
    if may_share_a_gpu():
        speeds["NCCL, one GPU shared"] = sending_speed("nccl", data, repeat)
    return [
        {"case": f"weights: {name}", "value": speed / 1e9, "unit": "GB/s", "share": speed / copy}
        for name, speed in speeds.items()
    ]


def sending_speed(backend: Backend, data: torch.Tensor, repeat: int) -> float:
    """Bytes per second to a process on this machine; it has taken one broadcast before the next begins."""
    group = WeightGroup(backend, 2, backend, _DEADLINE_S, HOST)
    times = []
    with peer("receive", backend, backend, group.port, len(data), repeat + 1) as process:
        group.join(_DEADLINE_S)
        for _ in range(repeat + 1):
            began = time.perf_counter()
            group.broadcast(data, _DEADLINE_S)
            times.append(time.perf_counter() - began)
            next_hash(process)
        group.close()
    return len(data) / statistics.median(times[1:])


def make_samples(count: int, length: int, vocabulary: int) -> list[TrainingSample]:
    rng = np.random.default_rng(length)
    samples = []
    for _ in range(count):
        ids = rng.integers(0, vocabulary, length).astype(np.int32)
        response = length - _PROMPT
        advantage = np.full(response, rng.standard_normal(), dtype=np.float32)
        behaviour = np.full(response, -np.log(vocabulary), dtype=np.float32)
        samples.append(TrainingSample(ids, _PROMPT, np.ones(response, dtype=bool), behaviour, advantage, 1.0))
    return samples


def step_row(length: int, flags: argparse.Namespace, ranks: Ranks, model: Path, limit: float) -> Row:
    from services.learner.model.policy import PolicyModel, load_causal
    from services.learner.step.engine import LearnerEngine
    from services.learner.step.trainer import Trainer

    count = max(1, flags.tokens // length)
    spec = RunSpec.model_validate(
        {
            "model": {"path": str(model), "dtype": "bfloat16", "gradient_checkpointing": flags.recompute},
            "data": {"path": "unused.jsonl"},
            "sampling": {"group_size": max(2, count), "max_response_tokens": length},
            "reward": {"overlong_buffer_tokens": length // 5},
            "training": {"prompts_per_step": 1, "updates_per_step": 1, "max_tokens_per_micro_batch": flags.micro_batch},
        }
    )
    causal = load_causal(str(model), "bfloat16")
    config = causal.config
    trainer = Trainer(spec, LearnerEngine(PolicyModel(causal, 1.0), spec, ranks))
    samples = dict(enumerate(make_samples(count, length, config.vocab_size)))
    records = [
        pb.TrainSample(prompt_tokens=s.prompt_tokens, response_tokens=s.response_tokens, in_loss=True)
        for s in samples.values()
    ]
    batch = pb.TrainBatch(batch=0, groups=[pb.TrainGroup(group_id="g", samples=records)])
    torch.cuda.reset_peak_memory_stats()
    took = seconds(lambda: trainer.train(batch, lambda wanted: {i: samples[i] for i in wanted}), flags.repeat)
    tokens = count * length
    parameters = sum(one.numel() for one in trainer.engine.module.parameters())
    attention = 12 * config.num_hidden_layers * config.hidden_size * length / 2
    share = tokens * (6 * parameters + attention) / took / limit
    return {
        "case": f"step: {count} × {length} tokens",
        "value": tokens / took,
        "unit": "tokens/s",
        "share": share,
        "peak_gib": torch.cuda.max_memory_allocated() / _GIB,
        "seconds": took,
    }


def show(rows: list[Row], about: dict[str, object]) -> None:
    table = Table(caption=", ".join(f"{name} {value}" for name, value in about.items()))
    for column in ("", "", "", "share of the limit", "peak GiB"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        peak = f"{row['peak_gib']:.1f}" if "peak_gib" in row else ""
        share = f"{row['share']:.3f}" if "share" in row else ""
        table.add_row(str(row["case"]), f"{row['value']:,.1f}", str(row["unit"]), share, peak)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096], help="tokens of a sequence")
    parser.add_argument("--tokens", type=int, default=65_536, help="of one step, about")
    parser.add_argument("--micro-batch", type=int, default=32_768, help="training.max_tokens_per_micro_batch")
    parser.add_argument("--recompute", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    flags = parser.parse_args()
    about = {"gpu": torch.cuda.get_device_name(), "nccl": ".".join(map(str, nccl_version()))}
    about |= machine("torch", "transformers", "deepspeed")
    flops, copy = matmul_flops(flags.repeat), copy_bytes(flags.repeat)
    rows: list[Row] = [
        {"case": "matrix product", "value": flops / 1e12, "unit": "TFLOP/s"},
        {"case": "copy", "value": copy / 1e9, "unit": "GB/s"},
        *weight_rows(copy, flags.repeat),
    ]
    store, _ = open_store(HOST, 1)
    ranks = join_ranks("cuda", store, rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        save(hundred_million(), Path(folder))
        rows += [step_row(length, flags, ranks, Path(folder), flops) for length in flags.lengths]
    dist.destroy_process_group()
    show(rows, about)
    if flags.json:
        write_json(flags.json, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
