"""From payload blobs to the arrays a sample is trained on, each checked against the batch record before it is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from dapo.bus.roles import LearnerBus
from dapo.v1 import messages_pb2 as pb


class PayloadError(ValueError):
    """A payload that cannot be trained on; the message says what is wrong with it."""


class BatchLost(RuntimeError):
    """Not one response of a batch can be trained on: such a step would be none."""

    def __init__(self, batch: int, responses: int) -> None:
        super().__init__(
            f"batch {batch} cannot be trained: none of its {responses} responses can be read from Redis; the lines "
            "above say what is wrong with them. The step is not recorded and the batch stays in the log. A Redis loses "
            "payloads where it evicts keys (maxmemory-policy must be noeviction) or comes back without its append-only "
            "file. Put its data back and start the learner again"
        )


@dataclass(slots=True)
class TrainingSample:
    """One response. `ids` is prompt then response, int32; the arrays below have one value a response token.

    `proximal` (π_old) is the sampler's `behaviour` unless the learner has recomputed it. `reference` (log π_ref),
    `values` and `returns` are 0 unless the step's preparation computes them; with a value network, so are `advantages`
    until then.
    """

    ids: NDArray[np.int32]
    prompt_tokens: int
    mask: NDArray[np.bool_]
    behaviour: NDArray[np.float32]
    advantages: NDArray[np.float32]
    reward: float
    versions: tuple[tuple[int, int], ...] = ()
    """(step, response tokens) of the versions that sampled the response, in its order."""
    proximal: NDArray[np.float32] = field(init=False)
    reference: NDArray[np.float32] = field(init=False)
    values: NDArray[np.float32] = field(init=False)
    returns: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        self.proximal = self.behaviour
        self.reference = self.values = self.returns = np.zeros_like(self.behaviour)

    @property
    def response_tokens(self) -> int:
        return len(self.ids) - self.prompt_tokens

    @property
    def loss_tokens(self) -> int:
        return int(self.mask.sum())


def _array(name: str, data: bytes, dtype: str, count: int) -> NDArray:
    wanted = count * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise PayloadError(f"{name} holds {len(data)} bytes, the batch record says {count} tokens ({wanted} bytes)")
    return np.frombuffer(data, dtype=dtype)


def decode_sample(
    record: pb.TrainSample, data: bytes | None, vocabulary: int, masked: Sequence[int] = ()
) -> TrainingSample:
    """Check a payload against its record. Raises PayloadError; what it returns fits a forward pass.

    `masked` ids have probability 0 in the policy, so none can have been sampled from it.
    """
    if data is None:
        raise PayloadError("the payload is missing")
    try:
        payload = pb.CompletionPayload.FromString(data)
    except DecodeError as error:
        raise PayloadError(f"the payload is not a CompletionPayload: {error}") from error
    if record.prompt_tokens == 0:
        raise PayloadError("the prompt is empty, so the first response token has nothing to be predicted from")
    prompt = _array("prompt_ids", payload.prompt_ids, "<i4", record.prompt_tokens)
    response = _array("response_ids", payload.response_ids, "<i4", record.response_tokens)
    behaviour = _array("logprobs", payload.logprobs, "<f4", record.response_tokens)
    if payload.loss_mask:
        mask = _array("loss_mask", payload.loss_mask, "u1", record.response_tokens).astype(bool)
    else:
        mask = np.ones(record.response_tokens, dtype=bool)
    ids = np.concatenate([prompt, response]).astype(np.int32)
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise PayloadError(f"token ids lie in [{ids.min()}, {ids.max()}], the vocabulary has {vocabulary} tokens")
    if (impossible := np.intersect1d(response[mask], np.array(masked, dtype=np.int32))).size:
        raise PayloadError(
            f"the ids {impossible.tolist()} were sampled, and the learner's tokenizer has no token for them; do "
            "generators and learner read the same model?"
        )
    if not (np.isfinite(behaviour[mask]).all() and np.isfinite(record.advantage) and np.isfinite(record.reward)):
        raise PayloadError("a log-probability, the advantage or the reward is not a finite number")
    behaviour = np.where(mask, behaviour, np.float32(0))
    advantages = np.full(record.response_tokens, record.advantage, dtype=np.float32)
    versions = tuple((span.version.step, span.end - span.start) for span in payload.spans)
    return TrainingSample(ids, record.prompt_tokens, mask, behaviour, advantages, record.reward, versions)


async def fetch_samples(
    bus: LearnerBus, records: Mapping[int, pb.TrainSample], vocabulary: int, masked: Sequence[int]
) -> tuple[dict[int, TrainingSample], dict[int, str]]:
    """The samples of one rank's share by index, and what is wrong with those that cannot be used."""
    keys = [record.payload_key for record in records.values()]
    blobs = await bus.payloads.get(keys) if keys else []
    samples: dict[int, TrainingSample] = {}
    problems: dict[int, str] = {}
    for (index, record), blob in zip(records.items(), blobs, strict=True):
        try:
            samples[index] = decode_sample(record, blob, vocabulary, masked)
        except PayloadError as error:
            problems[index] = str(error)
    return samples, problems
