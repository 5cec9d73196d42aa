"""Tiny random models for tests that need a real engine or learner."""

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from services.learner.toy import char_tokenizer

ALPHABET = "abcdefghijklmnopqrstuvwxyz>"
EOS = len(ALPHABET)


def tiny_qwen2(seed: int) -> Qwen2ForCausalLM:
    """About 0.1 M random parameters, tied embeddings, grouped-query attention. Different seeds answer differently."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(ALPHABET) + 3,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=EOS + 1,
        initializer_range=0.3,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config).eval()


def save_model(directory: Path, seed: int) -> Qwen2ForCausalLM:
    model = tiny_qwen2(seed)
    model.save_pretrained(directory)
    char_tokenizer(ALPHABET).save_pretrained(directory)
    return model


@torch.no_grad()
def greedy(model: Qwen2ForCausalLM, prompt: list[int], max_new_tokens: int) -> list[int]:
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
def token_logprobs(model: Qwen2ForCausalLM, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Log-probability of each response token at temperature 1, [len(response)]."""
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
