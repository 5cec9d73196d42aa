"""Generation on a CPU: dapo's SGLang server against what PyTorch does with the same model and the same prompts.

    python benchmarks/generate.py [--only NAME …] [--rounds 3] [--json FILE]

Each round measures everything once, interleaved; medians are shown. All responses of a workload are generated at once,
each of exactly the same length, sampled at temperature 1, with the log-probability of every token.

    SGLang         the generator's own server and client: HTTP, streamed tokens, one process and one thread to compute
    plain loop     one batch through the model with a key/value cache and nothing else, in one thread: the limit
    transformers   `model.generate` on the same batch, in one thread: what trainers without an engine run
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from machine import machine
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from transformers import Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from dapo.host.files import write_json
from dapo.spec import RunSpec
from services.generator.engine.client import EngineClient, SamplingParams
from services.generator.engine.responses import StreamedResponse
from services.generator.engine.server import SglangServer
from services.learner.starters.toy import char_tokenizer, qwen2_config

_PROMPT_TOKENS = 6
_PACKAGES = ("sglang", "torch", "transformers")
_SHAPES = {
    "0.7M": {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 2},
    "4M": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4},
}


class Workload(NamedTuple):
    shape: str
    groups: int
    size: int
    """Responses to each prompt."""
    tokens: int
    """Length of each response."""

    @property
    def responses(self) -> int:
        return self.groups * self.size


_WORKLOADS = {
    "small": Workload("0.7M", 64, 16, 64),
    "small-short": Workload("0.7M", 64, 16, 8),
    "medium": Workload("4M", 64, 16, 64),
    "medium-few": Workload("4M", 8, 8, 64),
}

Seconds = dict[str, list[float]]


def make_model(shape: str, directory: Path) -> Qwen2ForCausalLM:
    """A random Qwen2 with the toy's characters, saved to `directory` too."""
    torch.manual_seed(0)
    tokenizer = char_tokenizer()
    config = qwen2_config(
        tokenizer, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, **_SHAPES[shape]
    )
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model


def make_prompts(groups: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    ids: list[list[int]] = torch.randint(0, vocabulary - 3, (groups, _PROMPT_TOKENS), generator=generator).tolist()
    return ids


@torch.inference_mode()
def plain_loop(model: Qwen2ForCausalLM, prompts: Tensor, tokens: int) -> None:
    step, cache = prompts, None
    for _ in range(tokens):
        out = model(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        logprobs = out.logits[:, -1].log_softmax(-1)
        step = torch.multinomial(logprobs.exp(), 1)
        logprobs.gather(1, step)


@torch.inference_mode()
def transformers_generate(model: Qwen2ForCausalLM, prompts: Tensor, tokens: int) -> None:
    mask = torch.ones_like(prompts)
    out = model.generate(
        prompts, attention_mask=mask, do_sample=True, top_k=0, min_new_tokens=tokens, max_new_tokens=tokens
    )
    assert out.shape[1] == prompts.shape[1] + tokens


async def sglang_generate(engine: EngineClient, prompts: list[list[int]], size: int, tokens: int) -> None:
    sampling = SamplingParams(1.0, tokens, ())

    async def one_group(prompt: list[int]) -> int:
        asked = [StreamedResponse(f"{uuid4().hex}-{index:04d}") for index in range(size)]
        return sum([new_tokens async for _, new_tokens in engine.generate(asked, prompt, sampling)])

    counts = await asyncio.gather(*(one_group(prompt) for prompt in prompts))
    assert sum(counts) == len(prompts) * size * tokens


@asynccontextmanager
async def serving(model: Path, load: Workload, folder: Path) -> AsyncIterator[EngineClient]:
    """The engine as a run's generator starts it."""
    spec = RunSpec.model_validate(
        {
            "model": {"path": str(model)},
            "data": {"path": "unused.jsonl", "max_prompt_tokens": _PROMPT_TOKENS},
            "sampling": {"max_response_tokens": load.tokens},
            "algorithm": {"soft_overlong_punishment": False},
            "resources": {"generator": {"device": "cpu", "max_running_requests": load.responses}},
        }
    )
    server = SglangServer(spec, device="cpu", log_path=folder / "sglang.log")
    engine = EngineClient(await server.start())
    try:
        yield engine
    finally:
        await engine.close()
        await server.kill()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


async def measure(load: Workload, rounds: int, folder: Path, advance: Callable[[], None]) -> Seconds:
    """Seconds of each round; the first, which warms up, left out."""
    model = make_model(load.shape, folder / "model")
    prompts = make_prompts(load.groups, model.config.vocab_size)
    batch = torch.tensor(prompts).repeat_interleave(load.size, dim=0)
    seconds: Seconds = {"SGLang": [], "plain loop": [], "transformers": []}
    async with serving(folder / "model", load, folder) as engine:
        for number in range(rounds + 1):
            start = time.perf_counter()
            await sglang_generate(engine, prompts, load.size, load.tokens)
            found = {
                "SGLang": time.perf_counter() - start,
                "plain loop": timed(lambda: plain_loop(model, batch, load.tokens)),
                "transformers": timed(lambda: transformers_generate(model, batch, load.tokens)),
            }
            if number:
                for name, one in found.items():
                    seconds[name].append(one)
            advance()
    return seconds


def summarize(load: Workload, seconds: Seconds) -> dict[str, dict[str, float]]:
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        name: {
            "tokens_per_s": load.responses * load.tokens / one,
            "responses_per_s": load.responses / one,
            "best_tokens_per_s": load.responses * load.tokens / min(seconds[name]),
            "of_plain_loop": medians["plain loop"] / one,
        }
        for name, one in medians.items()
    }


def show(figures: dict[str, dict[str, dict[str, float]]], rounds: int) -> None:
    table = Table(
        title=f"median of {rounds} rounds; `best` in tokens/s; `ratio` is to the plain loop",
        caption=", ".join(f"{name} {value}" for name, value in machine(*_PACKAGES).items()),
    )
    for column in ("workload", "", "tokens/s", "best", "resp./s", "ratio"):
        table.add_column(column, justify="left" if column in ("workload", "") else "right", no_wrap=True)
    for name, systems in figures.items():
        load = _WORKLOADS[name]
        labels = iter((name, f"{load.responses} × {load.tokens}, {load.shape}"))
        for system, one in systems.items():
            table.add_row(
                *(next(labels, ""), system, f"{one['tokens_per_s']:,.0f}", f"{one['best_tokens_per_s']:,.0f}"),
                *(f"{one['responses_per_s']:,.0f}", f"{one['of_plain_loop']:.2f}"),
                end_section=system == "transformers",
            )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=_WORKLOADS, default=list(_WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    figures = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in arguments.only:
            load = _WORKLOADS[name]
            task = progress.add_task(f"{name} (SGLang takes about half a minute to start)", total=arguments.rounds + 1)
            with tempfile.TemporaryDirectory() as folder:
                work = measure(load, arguments.rounds, Path(folder), lambda task=task: progress.advance(task))
                figures[name] = summarize(load, asyncio.run(work))
    show(figures, arguments.rounds)
    if arguments.json:
        write_json(arguments.json, {"machine": machine(*_PACKAGES), "workloads": figures})


if __name__ == "__main__":
    main()
