"""From payloads to padded tensors."""

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from dapo.contracts.arrays import encode_ids, encode_logprobs  # noqa: E402
from dapo.spec.tree.training import OptimizerSpec  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from services.learner.step.batch import collate  # noqa: E402
from services.learner.step.payloads import PayloadError, decode_sample  # noqa: E402

CPU = torch.device("cpu")
VOCABULARY = 20


def record(prompt: int = 2, response: int = 3, advantage: float = 0.5) -> pb.TrainSample:
    return pb.TrainSample(
        payload_key="k", prompt_tokens=prompt, response_tokens=response, advantage=advantage, in_loss=True
    )


def payload(prompt: list[int], response: list[int], logprobs: list[float], loss_mask: bytes = b"") -> bytes:
    return pb.CompletionPayload(
        prompt_ids=encode_ids(prompt),
        response_ids=encode_ids(response),
        logprobs=encode_logprobs(logprobs),
        loss_mask=loss_mask,
    ).SerializeToString()


def test_a_sample_is_read_as_it_was_written() -> None:
    sample = decode_sample(record(), payload([1, 2], [3, 4, 5], [-0.1, -0.2, -0.3], b"\1\0\1"), VOCABULARY)
    assert sample.ids.tolist() == [1, 2, 3, 4, 5]
    assert sample.mask.tolist() == [True, False, True]
    assert sample.loss_tokens == 2
    assert sample.behaviour.tolist() == pytest.approx([-0.1, 0.0, -0.3])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "missing"),
        (b"\xff\xff\xff", "not a CompletionPayload"),
        (payload([1], [3, 4, 5], [-0.1] * 3), "prompt_ids holds 4 bytes"),
        (payload([1, 2], [3, 4], [-0.1] * 3), "response_ids"),
        (payload([1, 2], [3, 4, 5], [-0.1] * 2), "logprobs"),
        (payload([1, 2], [3, 4, 5], [-0.1] * 3, b"\1"), "loss_mask"),
        (payload([1, 2], [3, 4, 20], [-0.1] * 3), "vocabulary has 20"),
        (payload([1, -2], [3, 4, 5], [-0.1] * 3), "vocabulary has 20"),
        (payload([1, 2], [3, 4, 5], [-0.1, float("nan"), -0.1]), "not a finite number"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name(data: bytes | None, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        decode_sample(record(), data, VOCABULARY)


def test_an_empty_prompt_and_an_infinite_advantage_are_refused() -> None:
    with pytest.raises(PayloadError, match="prompt is empty"):
        decode_sample(record(prompt=0), payload([], [3, 4, 5], [-0.1] * 3), VOCABULARY)
    with pytest.raises(PayloadError, match="finite"):
        decode_sample(record(advantage=float("inf")), payload([1, 2], [3, 4, 5], [-0.1] * 3), VOCABULARY)


def test_ids_that_the_policy_cannot_sample_are_refused() -> None:
    data = payload([1, 2], [3, 4, 5], [-0.1, -0.2, -0.3], b"\1\0\1")
    assert decode_sample(record(), data, VOCABULARY, masked=[1, 4, 6]).loss_tokens == 2
    with pytest.raises(PayloadError, match=r"ids \[3, 5\] were sampled"):
        decode_sample(record(), data, VOCABULARY, masked=[3, 4, 5])


def test_positions_predict_the_response_tokens() -> None:
    short = decode_sample(record(), payload([1, 2], [3, 4, 5], [-0.1, -0.2, -0.3], b"\1\0\1"), VOCABULARY)
    long = decode_sample(record(1, 5), payload([6], [7, 8, 9, 10, 11], [-1.0] * 5), VOCABULARY)
    batch = collate([short, long], CPU)
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 10, 11]]
    assert batch.targets.tolist() == [3, 5, 7, 8, 9, 10, 11]
    assert batch.positions.tolist() == [1, 3, 6, 7, 8, 9, 10]
    assert batch.padded(batch.targets.float()).tolist() == [[3, 0, 5, 0, 0], [7, 8, 9, 10, 11]]
    assert batch.behaviour.shape == batch.mask.shape == (2, 5)
    assert batch.advantages.tolist() == [[0.5, 0.5, 0.5, 0, 0], [0.5] * 5]


def test_an_empty_micro_batch_has_no_token_in_the_loss() -> None:
    batch = collate([], CPU)
    assert not batch.mask.any()
    assert batch.targets.numel() == batch.positions.numel() == 0
    assert batch.ids.numel() == 2


def test_pitfall_16_warm_up_counts_rollout_steps_and_never_starts_at_zero() -> None:
    pytest.importorskip("deepspeed")
    from services.learner.step.engine import rate_factor

    spec = OptimizerSpec(warmup_steps=4)
    assert [rate_factor(step, spec, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rate_factor(0, OptimizerSpec(warmup_steps=0), 100) == 1.0


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.55), ("cosine", 0.55)])
def test_schedules_fall_from_the_peak_to_the_final_rate_after_the_last_step(schedule: str, middle: float) -> None:
    pytest.importorskip("deepspeed")
    from services.learner.step.engine import rate_factor

    spec = OptimizerSpec(warmup_steps=2, schedule=schedule, final_rate=0.1)
    rates = [rate_factor(step, spec, 12) for step in range(14)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(middle)
    assert rates[11] > rates[12] == rates[13] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rate_factor(1, OptimizerSpec(warmup_steps=5, schedule=schedule), 2) == 0.4
    # No step of the run trains at rate 0.
    assert rate_factor(11, OptimizerSpec(warmup_steps=2, schedule=schedule), 12) > 0


def test_buckets_keep_order_and_size() -> None:
    pytest.importorskip("deepspeed")
    from services.learner.weights.buckets import split_buckets

    assert split_buckets([3, 4, 5, 20, 1, 1], 8) == [[0, 1], [2], [3], [4, 5]]
