"""A small base model for the demo and the tests: it reverses a short string, right about one time in five.

`python -m services.learner.toy DIR` writes DIR/model (0.6 M-parameter Qwen2 with a character tokenizer) and
DIR/train.jsonl (rows {"prompt": "abcde>", "answer": "edcba"}).
"""

import argparse
import json
import random
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

ALPHABET = "abcdefghij"
LENGTH = 5
SEPARATOR = ">"
LEARNING_RATE = 7e-4
BATCH = 256
CHECK_EVERY = 5
MAX_UPDATES = 400


def char_tokenizer(alphabet: str = ALPHABET + SEPARATOR) -> PreTrainedTokenizerFast:
    """One token a character, then end-of-sequence and padding."""
    symbols = [*alphabet, "<eos>", "<pad>", "<unk>"]
    core = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def tiny_qwen2(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of about 0.6 M parameters."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def random_rows(count: int, rng: random.Random) -> list[dict[str, str]]:
    strings = ("".join(rng.choices(ALPHABET, k=LENGTH)) for _ in range(count))
    return [{"prompt": s + SEPARATOR, "answer": s[::-1]} for s in strings]


def encode(tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]) -> torch.Tensor:
    """Token ids of prompt, answer and end-of-sequence, [rows, 2 × LENGTH + 2]."""
    texts = [row["prompt"] + row["answer"] + tokenizer.eos_token for row in rows]
    return torch.tensor(tokenizer(texts)["input_ids"])


@torch.no_grad()
def sampled_accuracy(model: Qwen2ForCausalLM, ids: torch.Tensor) -> float:
    """Share of prompts whose answer, sampled at temperature 1, is right to the end-of-sequence token."""
    model.eval()
    width = LENGTH + 1
    tokens, gold = ids[:, :width], ids[:, width:]
    cache = None
    step = tokens
    for _ in range(gold.shape[1]):
        out = model(step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = torch.multinomial(out.logits[:, -1].softmax(-1), 1)
        tokens = torch.cat([tokens, step], dim=1)
    return float((tokens[:, width:] == gold).all(dim=1).float().mean())


def warm_up(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, *, target: float, seed: int) -> float:
    """Supervised steps until sampled accuracy reaches `target`; returns it.

    Raises RuntimeError when `MAX_UPDATES` updates do not get there.
    """
    rng = random.Random(seed)
    held_out = encode(tokenizer, random_rows(1024, rng))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    columns = (
        TextColumn("warm-up"),
        BarColumn(),
        TextColumn("accuracy {task.completed:.2f} of {task.total:.2f}, update {task.fields[update]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=target, update=0)
        for update in range(1, MAX_UPDATES + 1):
            model.train()
            ids = encode(tokenizer, random_rows(BATCH, rng))
            logits = model(ids).logits[:, LENGTH:-1]
            loss = cross_entropy(logits.flatten(0, 1), ids[:, LENGTH + 1 :].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if update % CHECK_EVERY == 0:
                accuracy = sampled_accuracy(model, held_out)
                progress.update(task, completed=min(accuracy, target), update=update)
                if accuracy >= target:
                    return accuracy
    raise RuntimeError(f"sampled accuracy stayed below {target} over {MAX_UPDATES} updates; try another --seed")


def write_toy(directory: Path, *, target: float = 0.15, rows: int = 20_000, seed: int = 0) -> float:
    """Write model and data below `directory`; returns the model's sampled accuracy."""
    torch.manual_seed(seed)
    tokenizer = char_tokenizer()
    model = tiny_qwen2(tokenizer, seed=seed)
    accuracy = warm_up(model, tokenizer, target=target, seed=seed)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "train.jsonl").open("w") as out:
        for row in random_rows(rows, random.Random(seed + 1)):
            out.write(json.dumps(row) + "\n")
    # The model comes last: where it stands, the rest does too.
    tokenizer.save_pretrained(directory / "model")
    model.save_pretrained(directory / "model")
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=0.15, help="stop the warm-up at this sampled accuracy")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    accuracy = write_toy(arguments.directory, target=arguments.target, seed=arguments.seed)
    Console(stderr=True).print(f"base model: {arguments.directory / 'model'}, sampled accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
