"""A small base model for the demo and the tests: it reverses a short string, right about one time in five.

`python -m services.learner.starters.toy DIR` writes DIR/model (0.6 M-parameter Qwen2 with a character tokenizer) and
DIR/train.jsonl (rows {"prompt": "abcde>", "answer": "edcba"}). With `--pauses 6` the model writes six spaces before its
answer in the mean, none of which a grader minds, so that the length of a response is its own choice.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from dapo.host.files import follow_umask
from dapo.host.storage import told_in_words

_ALPHABET = "abcdefghij"
_LENGTH = 5
_SEPARATOR = ">"
_PAUSE = " "
_LEARNING_RATE = 7e-4
_BATCH = 256
_CHECK_EVERY = 5
_MAX_UPDATES = 400


@dataclass(frozen=True)
class ToyTask:
    pauses: float = 0.0
    """Mean number of pauses before the answer; the number is geometric, so that some responses pass any limit."""
    limit: int = _LENGTH + 1
    """Response tokens at most, end-of-sequence counted."""

    @property
    def alphabet(self) -> str:
        return _ALPHABET + _SEPARATOR + (_PAUSE if self.pauses else "")

    def draw_pauses(self, rng: random.Random) -> str:
        """At most one more than `limit`: of what lies beyond, the model only has to learn that it goes on."""
        if not self.pauses:
            return ""
        stay = self.pauses / (1 + self.pauses)
        return _PAUSE * min(self.limit + 1, int(math.log(1 - rng.random()) / math.log(stay)))


_REVERSE = ToyTask()


def char_tokenizer(alphabet: str = _ALPHABET + _SEPARATOR) -> PreTrainedTokenizerFast:
    """One token a character, then end-of-sequence and padding."""
    symbols = [*alphabet, "<eos>", "<pad>", "<unk>"]
    core = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def qwen2_config(tokenizer: PreTrainedTokenizerFast, **shape: int) -> Qwen2Config:
    """A float32 Qwen2 with tied embeddings over the tokenizer's symbols; `shape` is Qwen2Config's widths and counts."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        **shape,
    )


def tiny_qwen2(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of about 0.6 M parameters."""
    torch.manual_seed(seed)
    config = qwen2_config(
        tokenizer,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    return Qwen2ForCausalLM(config)


def random_rows(count: int, rng: random.Random) -> list[dict[str, str]]:
    strings = ("".join(rng.choices(_ALPHABET, k=_LENGTH)) for _ in range(count))
    return [{"prompt": s + _SEPARATOR, "answer": s[::-1]} for s in strings]


def encode(tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]], leads: Sequence[str]) -> torch.Tensor:
    """Token ids of prompt, lead (the pauses), answer and end-of-sequence, padded on the right: [rows, longest]."""
    texts = [row["prompt"] + lead + row["answer"] + tokenizer.eos_token for row, lead in zip(rows, leads, strict=True)]
    return torch.tensor(tokenizer(texts, padding=True)["input_ids"])


def answered(responses: torch.Tensor, gold: torch.Tensor, pause: int) -> torch.Tensor:
    """Whether a response is pauses and then `gold`: [rows], of responses [rows, limit] and gold [rows, n]."""
    lead = (responses == pause).cumprod(dim=1).sum(dim=1, keepdim=True)
    places = lead + torch.arange(gold.shape[1])
    fits = places[:, -1] < responses.shape[1]
    found = responses.gather(1, places.clamp(max=responses.shape[1] - 1))
    return fits & (found == gold).all(dim=1)


@torch.no_grad()
def sampled_accuracy(model: Qwen2ForCausalLM, ids: torch.Tensor, *, pause: int, limit: int) -> float:
    """Share of prompts whose answer, sampled at temperature 1, is right to the end-of-sequence token.

    `ids` are of rows without pauses, all equally long; a response has at most `limit` tokens.
    """
    model.eval()
    width = _LENGTH + 1
    tokens, gold = ids[:, :width], ids[:, width:]
    cache = None
    step = tokens
    for _ in range(limit):
        out = model(step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = torch.multinomial(out.logits[:, -1].softmax(-1), 1)
        tokens = torch.cat([tokens, step], dim=1)
    return float(answered(tokens[:, width:], gold, pause).float().mean())


def warm_up(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, *, task: ToyTask, target: float, seed: int
) -> float:
    """Supervised steps until sampled accuracy reaches `target`; returns it.

    Raises RuntimeError when `_MAX_UPDATES` updates do not get there.
    """
    rng = random.Random(seed)
    held_out = encode(tokenizer, random_rows(1024, rng), [""] * 1024)
    pause = tokenizer.convert_tokens_to_ids(_PAUSE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    columns = (
        TextColumn("warm-up"),
        BarColumn(),
        TextColumn("accuracy {task.completed:.2f} of {task.total:.2f}, update {task.fields[update]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=target, update=0)
        for update in range(1, _MAX_UPDATES + 1):
            model.train()
            ids = encode(tokenizer, random_rows(_BATCH, rng), [task.draw_pauses(rng) for _ in range(_BATCH)])
            logits = model(ids).logits[:, _LENGTH:-1]
            targets = ids[:, _LENGTH + 1 :].flatten()
            loss = cross_entropy(logits.flatten(0, 1), targets, ignore_index=tokenizer.pad_token_id)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if update % _CHECK_EVERY == 0:
                accuracy = sampled_accuracy(model, held_out, pause=pause, limit=task.limit)
                progress.update(bar, completed=min(accuracy, target), update=update)
                if accuracy >= target:
                    return accuracy
    raise RuntimeError(f"sampled accuracy stayed below {target} over {_MAX_UPDATES} updates; try another --seed")


def write_toy(
    directory: Path, *, task: ToyTask = _REVERSE, target: float = 0.15, rows: int = 20_000, seed: int = 0
) -> float:
    """Write model and data below `directory`; returns the model's sampled accuracy."""
    # Before minutes of work, not after them.
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = char_tokenizer(task.alphabet)
    model = tiny_qwen2(tokenizer, seed=seed)
    accuracy = warm_up(model, tokenizer, task=task, target=target, seed=seed)
    with (directory / "train.jsonl").open("w") as out:
        for row in random_rows(rows, random.Random(seed + 1)):
            out.write(json.dumps(row) + "\n")
    # The model comes last: where it stands, the rest does too.
    tokenizer.save_pretrained(directory / "model")
    model.save_pretrained(directory / "model")
    follow_umask(directory / "model")
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=0.15, help="stop the warm-up at this sampled accuracy")
    parser.add_argument("--pauses", type=float, default=0.0, help="mean number of spaces before the answer")
    parser.add_argument("--limit", type=int, default=_LENGTH + 1, help="response tokens at most, as in the run's spec")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    with told_in_words(arguments.directory, SafetensorError):
        accuracy = write_toy(
            arguments.directory,
            task=ToyTask(arguments.pauses, arguments.limit),
            target=arguments.target,
            seed=arguments.seed,
        )
    Console(stderr=True).print(f"base model: {arguments.directory / 'model'}, sampled accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
