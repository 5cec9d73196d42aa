"""From payloads to padded tensors, and log-probabilities in chunks."""

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from dapo.contracts.arrays import encode_ids, encode_logprobs  # noqa: E402
from dapo.spec.training import OptimizerSpec  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from services.learner.batch import collate  # noqa: E402
from services.learner.logprobs import head_logprobs, token_logprobs  # noqa: E402
from services.learner.payloads import PayloadError, decode_sample  # noqa: E402

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


def test_positions_predict_the_response_tokens() -> None:
    short = decode_sample(record(), payload([1, 2], [3, 4, 5], [-0.1, -0.2, -0.3], b"\1\0\1"), VOCABULARY)
    long = decode_sample(record(1, 5), payload([6], [7, 8, 9, 10, 11], [-1.0] * 5), VOCABULARY)
    batch = collate([short, long], CPU)
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 10, 11]]
    assert batch.targets.tolist() == [3, 5, 7, 8, 9, 10, 11]
    assert batch.positions.tolist() == [1, 3, 6, 7, 8, 9, 10]
    assert batch.padded(batch.targets.float()).tolist() == [[3, 0, 5, 0, 0], [7, 8, 9, 10, 11]]
    assert batch.behaviour.shape == batch.mask.shape == (2, 5)
    assert batch.advantages.tolist() == [[0.5], [0.5]]


def test_an_empty_micro_batch_has_no_token_in_the_loss() -> None:
    batch = collate([], CPU)
    assert not batch.mask.any()
    assert batch.targets.numel() == batch.positions.numel() == 0
    assert batch.tokens == 2


def test_logprobs_and_entropy_at_a_temperature() -> None:
    logits = torch.randn(6, VOCABULARY, dtype=torch.float64)
    targets = torch.arange(6)
    logprobs, entropy = token_logprobs(logits, targets, 0.7)
    wanted = torch.distributions.Categorical(logits=logits / 0.7)
    torch.testing.assert_close(logprobs.double(), wanted.log_prob(targets), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), wanted.entropy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_chunks_change_neither_values_nor_gradients(entropy_gradient: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, VOCABULARY, bias=False)
    hidden = torch.randn(11, 4)
    targets = torch.randint(0, VOCABULARY, (11,))
    results = []
    for chunk_bytes in (2**20, 4 * VOCABULARY * 3):
        leaf = hidden.clone().requires_grad_()
        head.zero_grad()
        logprobs, entropy = head_logprobs(
            head, leaf, targets, 0.9,
            vocabulary=VOCABULARY, entropy_gradient=entropy_gradient, chunk_bytes=chunk_bytes,
        )  # fmt: skip
        (logprobs.sum() + (entropy.sum() if entropy_gradient else 0)).backward()
        results.append((logprobs.detach(), entropy.detach(), leaf.grad, head.weight.grad.clone()))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked)


def test_the_learning_rate_warms_up_in_steps_and_never_starts_at_zero() -> None:
    pytest.importorskip("deepspeed")
    from services.learner.engine import learning_rate

    spec = OptimizerSpec(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(step, spec) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(0, OptimizerSpec(learning_rate=1.0, warmup_steps=0)) == 1.0


def test_buckets_keep_order_and_size() -> None:
    pytest.importorskip("deepspeed")
    from services.learner.buckets import split_buckets

    assert split_buckets([3, 4, 5, 20, 1, 1], 8) == [[0, 1], [2], [3], [4, 5]]
