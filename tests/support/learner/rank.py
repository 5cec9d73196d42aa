"""One learner rank for the tests: trains given samples through the real engine, and writes what came out.

`python rank.py CASES.json OUT.json DEVICE` with the launcher's environment; each case has a new engine.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

from dapo.host.memory import free_bytes
from dapo.records.checkpoints import find_newest
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.learner import checkpoint as checkpoint_module
from services.learner.checkpoint import CheckpointStore
from services.learner.distributed import Ranks
from services.learner.model.lora import add_lora
from services.learner.model.policy import PolicyModel, TrainedModel, ValueModel, load_causal
from services.learner.step.engine import LearnerEngine
from services.learner.step.fingerprint import fingerprint
from services.learner.step.payloads import TrainingSample
from services.learner.step.trainer import Trainer
from tests.support.learner.meeting import join


def make_samples(seed: int, count: int, vocabulary: int) -> list[TrainingSample]:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        prompt, response = int(rng.integers(2, 7)), int(rng.integers(1, 12))
        ids = rng.integers(0, vocabulary, prompt + response).astype(np.int32)
        behaviour = (-2.3 + 0.3 * rng.standard_normal(response)).astype(np.float32)
        advantage = np.full(response, rng.standard_normal(), dtype=np.float32)
        samples.append(
            TrainingSample(ids, prompt, np.ones(response, dtype=bool), behaviour, advantage, float(advantage[0]))
        )
    return samples


def make_batch(number: int, samples: list[TrainingSample]) -> pb.TrainBatch:
    records = [
        pb.TrainSample(prompt_tokens=s.prompt_tokens, response_tokens=s.response_tokens, in_loss=True) for s in samples
    ]
    return pb.TrainBatch(batch=number, groups=[pb.TrainGroup(group_id="g0000000000", samples=records)])


def digest(engine: LearnerEngine[TrainedModel]) -> dict[str, list[float]]:
    """Of every parameter: its first values, and its sum and norm."""
    found = {}
    for name, parameter in engine.module.named_parameters():
        with engine.gathered([parameter]):
            flat = parameter.detach().double().flatten()
            found[name.removeprefix("causal.")] = [*flat[:16].tolist(), float(flat.sum()), float(flat.norm())]
    return found


def optimizer_digest(engine: LearnerEngine[TrainedModel] | None) -> dict[str, str]:
    """A hash of each parameter's whole fp32 weights, of its moments and of its count of updates: what DeepSpeed itself
    says of them, gathered from all ranks."""
    if engine is None:
        return {}
    counts = {float(state["step"]) for state in engine.adamw.state.values()}
    found = {"step": str(counts)}
    moments = ("exp_avg", "exp_avg_sq") if counts else ()  # None before the first update.
    if counts and engine.zero_stage in (1, 2):
        # DeepSpeed links every group behind the first one's first update, when the others have no state yet.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if engine.zero_stage == 0:
            whole = {"fp32": parameter.detach(), **engine.adamw.state.get(parameter, {})}
        else:
            whole = {key: safe_get_full_optimizer_state(parameter, key) for key in moments}
            whole["fp32"] = safe_get_full_fp32_param(parameter)
        for key in ("fp32", *moments):
            values = whole[key].reshape(-1) + 0.0  # As a sum over ranks has it: without negative zeros.
            found[f"{key} {name}"] = hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest()
    return found


def state_of(trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint must give back."""
    return {
        "policy": optimizer_digest(trainer.engine),
        "value": optimizer_digest(trainer.value),
        "parameters": digest(trainer.engine),
        "fingerprint": fingerprint(trainer.engine),
    }


def run_case(case: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Metrics of each batch trained, a digest of the parameters after the last; the state when a checkpoint was written
    and after one was loaded, and the ranks' next random numbers then (`drawn`, `random`)."""
    spec = RunSpec.model_validate(case["spec"])
    causal = load_causal(spec.model.path, spec.model.dtype)
    add_lora(causal, spec.lora, spec.seed)
    bonus = spec.algorithm.entropy_coefficient > 0
    policy = PolicyModel(causal, spec.sampling.temperature, entropy_gradient=bonus)
    engine = LearnerEngine(policy, spec, ranks)
    value = None
    if spec.algorithm.advantage_estimator == "gae":
        value = LearnerEngine(ValueModel(load_causal(spec.model.path, spec.model.dtype)), spec, ranks)
    reference = load_causal(spec.model.path, spec.model.dtype) if spec.algorithm.needs_reference else None
    trainer = Trainer(spec, engine, value, reference)
    store = CheckpointStore(Path(case["run_dir"]), spec, trainer)
    checkpoint_module.free_bytes = lambda: 0 if ranks.rank in case.get("full", []) else free_bytes()
    first = 0
    states = {}
    if case.get("resume"):
        checkpoint = find_newest(store.root).checkpoint
        assert checkpoint is not None
        store.load(checkpoint)
        first = checkpoint.manifest.step
        states["loaded"] = state_of(trainer)
        states["random"] = all_randoms(ranks)

    def train(number: int) -> dict[str, float]:
        samples = make_samples(number, case["samples"], engine.module.vocabulary)
        if case.get("poisoned_batch") == number:
            samples[0].advantages = np.full_like(samples[0].advantages, np.inf)
        fetched = {index: sample for index, sample in enumerate(samples) if index not in case.get("lost", [])}
        return trainer.train(make_batch(number, samples), lambda records: pick(records, fetched))

    metrics = []
    for number in range(first, case["batches"]):
        metrics.append(train(number))
        if case.get("checkpoint_after") == number + 1:
            all_randoms(ranks)  # So that the generators are not where they begin.
            states["saved"] = state_of(trainer)
            draft = store.draft(number + 1, epoch=1, frontier=None)
            states["beside"] = draft.beside
            if case.get("late") and draft.beside:
                # As if the writing took as long: nothing of it may be in what is written.
                train(number + 1)
            store.write(draft)
            torch.distributed.barrier()
            if ranks.leads:
                store.complete(draft)
                store.mark(draft.directory, epoch=1)
            torch.distributed.barrier()
            states["drawn"] = all_randoms(ranks)
    return {
        "metrics": metrics,
        "parameters": digest(engine),
        "value": digest(value) if value is not None else {},
        "recomputes": engine.module.causal.is_gradient_checkpointing,
        **states,
    }


def all_randoms(ranks: Ranks) -> list[float]:
    """The next random number of each rank, on a GPU of its generator too: added to the host's."""
    found = [torch.zeros(1) for _ in range(ranks.world_size)]
    mine = torch.rand(1) if ranks.device.type == "cpu" else torch.rand(1) + torch.rand(1, device=ranks.device).cpu()
    torch.distributed.all_gather(found, mine)
    return [float(one) for one in found]


def pick(records: dict[int, pb.TrainSample], samples: dict[int, TrainingSample]) -> dict[int, TrainingSample]:
    return {index: samples[index] for index in records if index in samples}


def main() -> None:
    cases: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    ranks = join(sys.argv[3])  # type: ignore[arg-type]
    results = [run_case(case, ranks) for case in cases]
    if ranks.leads:
        Path(sys.argv[2]).write_text(json.dumps(results))
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
