"""Tiny random models for tests that need a real engine or learner."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from services.learner.starters.toy import char_tokenizer

ALPHABET = "abcdefghijklmnopqrstuvwxyz>"
EOS = len(ALPHABET)
VOCABULARY = EOS + 3
SPELLINGS = (*ALPHABET, "", "", "<unk>")
"""Of each id, what graders read: end and padding are hidden, the other special token is text."""


def _random_qwen2(seed: int, **shape: Any) -> Qwen2ForCausalLM:
    """Tied embeddings, ids as those of the tokenizer of ALPHABET."""
    torch.manual_seed(seed)
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": EOS + 1}
    return Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=True, dtype="float32", **ends, **shape))


def tiny_qwen2(seed: int, vocabulary: int = VOCABULARY) -> Qwen2ForCausalLM:
    """About 0.1 M random parameters, tied embeddings, grouped-query attention. Different seeds answer differently."""
    model = _random_qwen2(
        seed,
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    return model.eval()


ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**attention_shape(heads=4, key_heads=2, width=16), tie_word_embeddings=True)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**attention_shape(heads=4, key_heads=1, width=32), tie_word_embeddings=False)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**attention_shape(heads=4, key_heads=4, width=16), tie_word_embeddings=False)
    ),
}
"""Of each architecture one shape: two queries a key head, four (and heads wider than the hidden state), and one."""


def attention_shape(*, heads: int, key_heads: int, width: int) -> dict[str, Any]:
    """What the configurations share; sequences may be 4096 tokens long."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": width,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": EOS + 1,
        "initializer_range": 0.12,
        "dtype": "float32",
    }


def tiny_model(architecture: str, seed: int) -> PreTrainedModel:
    """A model of random parameters, the vectors too: biases of 0 and norms of 1 would hide that they were left out."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[architecture]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def save(model: PreTrainedModel, directory: Path) -> None:
    model.save_pretrained(directory)
    char_tokenizer(ALPHABET).save_pretrained(directory)


def save_model(directory: Path, seed: int) -> Qwen2ForCausalLM:
    model = tiny_qwen2(seed)
    save(model, directory)
    return model


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int], max_new_tokens: int) -> list[int]:
    """Greedy continuation, the end-of-sequence token included where it comes."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
    )
    ids: list[int] = out[0, len(prompt) :].tolist()
    return ids


@torch.no_grad()
def token_logprobs(model: PreTrainedModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Log-probability of each response token at temperature 1, [len(response)]."""
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


@torch.no_grad()
def batched_logprobs(
    model: PreTrainedModel, sequences: Sequence[tuple[int, ...]], *, most_tokens: int = 16_384
) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    """Each sequence with [tokens − 1, vocabulary]: row i is the distribution of token i + 1.

    In no particular order, at most so many tokens a forward pass. Padding stands to the right, where causal attention
    does not look.
    """
    todo = sorted(sequences, key=len)
    while todo:
        rows = max(1, most_tokens // len(todo[-1]))
        part, todo = todo[-rows:], todo[:-rows]
        inputs = pad_sequence([torch.tensor(sequence[:-1]) for sequence in part], batch_first=True)
        logprobs = model(inputs).logits.log_softmax(-1)
        for sequence, row in zip(part, logprobs, strict=True):
            yield sequence, row[: len(sequence) - 1]


def hundred_million(seed: int = 0) -> Qwen2ForCausalLM:
    """101 M random parameters in the shape of a small Qwen2: 12 layers of width 768, vocabulary 32,000."""
    return _random_qwen2(
        seed,
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
