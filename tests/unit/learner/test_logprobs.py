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


def all_logits(inputs: dict[str, Any], targets: Any, masked: Any) -> tuple[Any, Any]:
    """The same from the whole logits, by torch's own distribution over the ids that are left."""
    logits = torch.nn.functional.linear(inputs["hidden"], inputs["weight"], inputs["bias"]) / TEMPERATURE
    left = ids_left(masked)
    wanted = torch.distributions.Categorical(logits=logits[:, left])
    return wanted.log_prob(torch.searchsorted(left, targets)), wanted.entropy()


def ids_left(masked: Any) -> Any:
    return torch.tensor(sorted(set(range(VOCABULARY)) - set(masked.tolist())))


@pytest.mark.parametrize("chunk_bytes", [ONE_CHUNK, FOUR_CHUNKS])
@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masked", [(), (3, 17, 18, 19)])
def test_values_and_gradients_are_those_of_the_whole_logits(
    masked: tuple[int, ...], bias: bool, entropy_gradient: bool, chunk_bytes: int
) -> None:
    inputs, without = make_inputs(bias=bias), torch.tensor(masked, dtype=torch.long)
    left = ids_left(without)
    targets = left[torch.randint(0, len(left), (TOKENS,))]
    weights = torch.randn(2, TOKENS, dtype=torch.float64)
    leaves = [leaf for leaf in inputs.values() if leaf is not None]
    logprobs, entropy = head_logprobs(
        **inputs, targets=targets, temperature=TEMPERATURE, masked=without,
        entropy_gradient=entropy_gradient, chunk_bytes=chunk_bytes,
    )  # fmt: skip
    assert entropy.requires_grad == entropy_gradient
    wanted_logprobs, wanted_entropy = all_logits(inputs, targets, without)
    torch.testing.assert_close(logprobs, wanted_logprobs)
    torch.testing.assert_close(entropy, wanted_entropy)

    found = torch.autograd.grad((weights[0] * logprobs + weights[1] * entropy).sum(), leaves)
    if not entropy_gradient:
        wanted_entropy = wanted_entropy.detach()
    wanted = torch.autograd.grad((weights[0] * wanted_logprobs + weights[1] * wanted_entropy).sum(), leaves)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert not found[1][list(masked)].any()


def test_bfloat16_is_evaluated_in_float32() -> None:
    inputs = make_inputs(dtype=torch.bfloat16)
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    logprobs, entropy = head_logprobs(**inputs, targets=targets, temperature=1.0)
    logits = torch.nn.functional.linear(inputs["hidden"], inputs["weight"], inputs["bias"]).float()
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(1, targets[:, None])[:, 0])
    logprobs.sum().backward()
    assert {leaf.grad.dtype for leaf in inputs.values()} == {torch.bfloat16}


def bfloat16_gradients(chunk_tokens: int) -> tuple[list[Any], list[Any]]:
    """By weight and bias, of 600 tokens in bfloat16: in chunks, and from the same numbers in float64."""
    tokens = 600
    torch.manual_seed(0)
    hidden, weight = torch.rand(tokens, WIDTH), torch.randn(VOCABULARY, WIDTH)
    rounded = [leaf.bfloat16().requires_grad_() for leaf in (hidden, weight, torch.zeros(VOCABULARY))]
    exact = [leaf.detach().double().requires_grad_() for leaf in rounded]
    targets = torch.randint(0, VOCABULARY, (tokens,))
    gradients = []
    for leaves, chunk_bytes in ((rounded, 4 * VOCABULARY * chunk_tokens), (exact, ONE_CHUNK)):
        logprobs, entropy = head_logprobs(
            *leaves, targets=targets, temperature=TEMPERATURE, entropy_gradient=True, chunk_bytes=chunk_bytes
        )
        gradients.append(torch.autograd.grad((logprobs + 0.1 * entropy).sum(), leaves[1:]))
    return gradients[0], gradients[1]


@pytest.mark.parametrize("chunk_tokens", [1, 7, 600])
def test_gradients_of_a_bfloat16_head_are_those_of_float64_however_many_chunks(chunk_tokens: int) -> None:
    found, exact = bfloat16_gradients(chunk_tokens)
    for mine, theirs, whole in zip(found, exact, bfloat16_gradients(600)[0], strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - theirs).norm() <= 4e-3 * theirs.norm()
        torch.testing.assert_close(mine, whole, rtol=2**-7, atol=0)


def test_small_chunks_do_not_vanish_in_a_large_bfloat16_gradient() -> None:
    """From 128 on, bfloat16 has no room for another half."""
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(4096, dtype=torch.long)
    head_logprobs(hidden, weight, bias, targets, 1.0, chunk_bytes=1)[0].sum().backward()
    assert weight.grad.flatten().tolist() == bias.grad.tolist() == [2048, -2048]


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


def test_a_head_in_float32_rounds_no_logit_of_a_bfloat16_model() -> None:
    """Against float64, log-probabilities are right to float32; gradients keep the model's format."""
    torch.manual_seed(0)
    embedding = torch.nn.Linear(64, VOCABULARY, dtype=torch.bfloat16)
    hidden = torch.randn(TOKENS, 64).mul(4).bfloat16().requires_grad_()
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    exact, _ = head_logprobs(hidden.double(), embedding.weight.double(), embedding.bias.double(), targets, TEMPERATURE)
    exact = exact.detach()
    rounded, _ = LogprobHead(embedding)(hidden, targets, TEMPERATURE)
    found, entropy = LogprobHead(embedding, in_float32=True)(hidden, targets, TEMPERATURE)
    assert found.dtype == entropy.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5 < 1e-3 < (rounded - exact).abs().max()
    found.sum().backward()
    for leaf in (hidden, embedding.weight, embedding.bias):
        assert leaf.grad.dtype == torch.bfloat16
        assert leaf.grad.abs().sum() > 0


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


class FloatCopies(TorchDispatchMode):
    """Storages of `shape` in float32 that operations return; held, so that none takes another's address."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.storages: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.shape == self.shape and leaf.dtype == torch.float32:
                self.storages[leaf.data_ptr()] = leaf
        return result


def test_a_bfloat16_head_needs_one_float32_gradient_however_many_chunks() -> None:
    hidden = torch.randn(50, 30, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(100, 30, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, 100, (50,))
    with FloatCopies((100, 30)) as copies:
        head_logprobs(hidden, weight, None, targets, 1.0, chunk_bytes=4 * 100 * 3)[0].sum().backward()
    assert len(copies.storages) == 1
