"""`python wide_model.py DIR MILLIONS`: a random Qwen2 in which weights outweigh everything else a learner holds."""

import json
import random
import sys
from pathlib import Path

import torch
from transformers import Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from services.learner.starters.toy import char_tokenizer, qwen2_config, random_rows

_LAYERS = 8


def width_for(parameters: float) -> int:
    """Hidden size whose _LAYERS layers, at 13.5 × hidden² weights each, come close to `parameters`; a multiple of 64.

    Attention with half as many key and value heads has 3 × hidden² weights, an MLP of 3.5 × hidden 10.5 × hidden².
    """
    return max(64, round((parameters / _LAYERS / 13.5) ** 0.5 / 64) * 64)


def main() -> None:
    directory, millions = Path(sys.argv[1]), float(sys.argv[2])
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = char_tokenizer()
    width = width_for(millions * 1e6)
    config = qwen2_config(
        tokenizer,
        hidden_size=width,
        intermediate_size=width * 7 // 2,
        num_hidden_layers=_LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    directory.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(row) + "\n" for row in random_rows(2_000, random.Random(1)))
    (directory / "train.jsonl").write_text(rows)
    tokenizer.save_pretrained(directory / "model")
    Qwen2ForCausalLM(config).save_pretrained(directory / "model")


if __name__ == "__main__":
    main()
