"""Log-probabilities in chunks: exact, and within their bound of memory."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from services.learner.model.logprobs import LogprobHead, head_logprobs  # noqa: E402

VOCABULARY, WIDTH, TOKENS = 20, 4, 11
TEMPERATURE = 0.7
ONE_CHUNK, FOUR_CHUNKS = 2**20, 4 * VOCABULARY * 3


def make_inputs(*, bias: bool = True, dtype: Any = torch.float64) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "hidden": torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True),
        "weight": torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True),
        "bias": torch.randn(VOCABULARY, dtype=dtype, requires_grad=True) if bias else None,
    }


def all_logits(inputs: dict[str, Any], targets: Any) -> tuple[Any, Any]:
    """The same from the whole logits, by torch's own distribution."""
    logits = torch.nn.functional.linear(inputs["hidden"], inputs["weight"], inputs["bias"]) / TEMPERATURE
    wanted = torch.distributions.Categorical(logits=logits)
    return wanted.log_prob(targets), wanted.entropy()


@pytest.mark.parametrize("chunk_bytes", [ONE_CHUNK, FOUR_CHUNKS])
@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_the_whole_logits(
    bias: bool, entropy_gradient: bool, chunk_bytes: int
) -> None:
    inputs = make_inputs(bias=bias)
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    weights = torch.randn(2, TOKENS, dtype=torch.float64)
    leaves = [leaf for leaf in inputs.values() if leaf is not None]
    logprobs, entropy = head_logprobs(
        **inputs, targets=targets, temperature=TEMPERATURE,
        entropy_gradient=entropy_gradient, chunk_bytes=chunk_bytes,
    )  # fmt: skip
    assert entropy.requires_grad == entropy_gradient
    wanted_logprobs, wanted_entropy = all_logits(inputs, targets)
    torch.testing.assert_close(logprobs, wanted_logprobs)
    torch.testing.assert_close(entropy, wanted_entropy)

    found = torch.autograd.grad((weights[0] * logprobs + weights[1] * entropy).sum(), leaves)
    if not entropy_gradient:
        wanted_entropy = wanted_entropy.detach()
    wanted = torch.autograd.grad((weights[0] * wanted_logprobs + weights[1] * wanted_entropy).sum(), leaves)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_bfloat16_is_evaluated_in_float32() -> None:
    inputs = make_inputs(dtype=torch.bfloat16)
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    logprobs, entropy = head_logprobs(**inputs, targets=targets, temperature=1.0)
    logits = torch.nn.functional.linear(inputs["hidden"], inputs["weight"], inputs["bias"]).float()
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(1, targets[:, None])[:, 0])
    logprobs.sum().backward()
    assert {leaf.grad.dtype for leaf in inputs.values()} == {torch.bfloat16}


def test_a_frozen_weight_gets_no_gradient_and_no_token_gives_zero() -> None:
    inputs = make_inputs()
    inputs["weight"].requires_grad_(False)
    head_logprobs(**inputs, targets=torch.zeros(TOKENS, dtype=torch.long), temperature=1.0)[0].sum().backward()
    assert inputs["weight"].grad is None
    assert inputs["hidden"].grad.abs().sum() > 0

    inputs = make_inputs()
    nothing = {**inputs, "hidden": inputs["hidden"][:0]}
    head_logprobs(**nothing, targets=torch.zeros(0, dtype=torch.long), temperature=1.0)[0].sum().backward()
    assert inputs["weight"].grad.eq(0).all()


def test_the_head_stays_an_output_embedding() -> None:
    embedding = torch.nn.Linear(WIDTH, VOCABULARY)
    head = LogprobHead(embedding)
    hidden, targets = torch.randn(TOKENS, WIDTH), torch.randint(0, VOCABULARY, (TOKENS,))
    assert head.weight is embedding.weight
    torch.testing.assert_close(head(hidden), embedding(hidden))
    wanted = (embedding(hidden) / TEMPERATURE).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(head(hidden, targets, TEMPERATURE)[0], wanted)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes) if sizes else self.elements
        return result


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_no_tensor_is_larger_than_a_chunk(entropy_gradient: bool) -> None:
    """Many tokens and a narrow model: the chunk's logits are the largest there is, forward and backward."""
    tokens, vocabulary, width, chunk_tokens = 500, 100, 2, 30
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,))
    with LargestTensor() as largest:
        logprobs, entropy = head_logprobs(
            hidden, weight, None, targets, 1.0,
            entropy_gradient=entropy_gradient, chunk_bytes=4 * vocabulary * chunk_tokens,
        )  # fmt: skip
        (logprobs + entropy).sum().backward()
    assert largest.elements == chunk_tokens * vocabulary
    assert hidden.grad is not None
