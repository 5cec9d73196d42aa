"""One learner rank for the tests of what saves memory: two updates through the real engine, and the weights after them.

`python memory_rank.py CASES.json OUT.json` with the launcher's environment; each case has a new engine.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dapo.spec import RunSpec
from services.learner.distributed import Ranks
from services.learner.model.logprobs import LogprobHead
from services.learner.model.lora import add_lora
from services.learner.model.policy import PolicyModel
from services.learner.state import own_state, read_state, write_state
from services.learner.step.batch import collate
from services.learner.step.engine import LearnerEngine
from services.learner.step.payloads import TrainingSample
from services.learner.weights.buckets import WeightBuckets
from tests.support.learner.meeting import join
from tests.support.models import VOCABULARY, tiny_model

UPDATES = 2
RESPONSES = (11, 3, 7, 1, 9, 4)
CHUNK_TOKENS = 4


def make_samples(update: int) -> list[TrainingSample]:
    rng = np.random.default_rng(update)
    samples = []
    for response in RESPONSES:
        ids = rng.integers(0, VOCABULARY, 3 + response).astype(np.int32)
        weights = rng.standard_normal(response).astype(np.float32)
        mask = np.ones(response, dtype=bool)
        samples.append(TrainingSample(ids, 3, mask, behaviour=weights, advantages=weights, reward=1.0))
    return samples


def share(samples: list[TrainingSample], ranks: Ranks) -> list[TrainingSample]:
    """The last sample is rank 1's, where there is one, and so has fewer chunks of logits than rank 0."""
    if ranks.world_size == 1:
        return samples
    return samples[:-1] if ranks.leads else samples[-1:]


def make_engine(case: dict[str, Any], ranks: Ranks) -> LearnerEngine[PolicyModel]:
    spec = RunSpec.model_validate(case["spec"])
    causal = tiny_model("qwen2", seed=0)
    # Each rank starts with adapters of its own; the engine must give them all rank 0's.
    add_lora(causal, spec.lora, seed=ranks.rank)
    return LearnerEngine(PolicyModel(causal, 1.0), spec, ranks)


def run_update(engine: LearnerEngine[PolicyModel], number: int, packed: bool) -> float:
    batch = collate(share(make_samples(number), engine.ranks), torch.device("cpu"), packed=packed)
    logprobs, _ = engine(batch.ids, batch.positions, batch.targets, batch.position_ids)
    engine.backward((batch.padded(logprobs) * batch.advantages).sum())
    return engine.step()


def run_case(case: dict[str, Any], ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Gradient norms of the updates; the served weights as the generators would get them, and by name."""
    engine = make_engine(case, ranks)
    norms = []
    for number in range(UPDATES):
        if number and case.get("resume"):
            folder.mkdir(exist_ok=True)
            write_state(folder, ranks.rank, own_state(engine))
            torch.distributed.barrier()
            engine = make_engine(case, ranks)
            read_state(folder, engine)
        norms.append(run_update(engine, number, case.get("packed", False)))
    sent = list(WeightBuckets(engine, bucket_mib=1).gathered(torch.device("cpu"), wanted=ranks.leads))
    weights = {}
    for name, weight in engine.module.served_weights().items():
        with engine.gathered(weight.parameters):
            weights[name] = weight.value().flatten().tolist()
    return {"norms": norms, "weights": weights, "sent": torch.cat(sent).view(torch.float32).tolist() if sent else []}


def main() -> None:
    cases: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    ranks = join()
    LogprobHead.chunk_bytes = 4 * VOCABULARY * CHUNK_TOKENS
    folder = Path(sys.argv[2]).parent
    results = [run_case(case, ranks, folder / f"case{number}") for number, case in enumerate(cases)]
    if ranks.leads:
        Path(sys.argv[2]).write_text(json.dumps(results))
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
