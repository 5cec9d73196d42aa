"""Batched CPU attention inside a real SGLang server against transformers: greedy tokens and their log-probabilities.

One server an architecture; it takes half a minute to start. Prefill goes in small chunks and the KV pool is small, so
that long prompts go in pieces and a full pool makes SGLang retract. A response is checked by one forward pass over
prompt and response: where every token is the most likely one after those before it, the response is the greedy one.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from services.generator.engine import server as server_module
from services.generator.engine.client import EngineClient, SamplingParams, TensorDescription
from services.generator.engine.responses import StreamedResponse
from services.generator.engine.server import SglangServer
from tests.support.generator.kit import make_spec
from tests.support.models import ARCHITECTURES, VOCABULARY, batched_logprobs, save, tiny_model
from tests.support.weights import WeightSender, named_weights, split_buckets

START_S = 400.0
"""SGLang's start on a machine that does much else."""
TOLERANCE = 1e-5
TIE = 1e-4
"""Logits nearer than this may change places by rounding: either token is greedy."""

LONGEST = 2000
MOST_SEQUENCES = 1024
MOST_TOKENS = 14_000
"""Of one drawn batch: a few seconds' work."""
POOL_TOKENS = 16_384
"""MANY is in flight at once; FILLING has no room."""
PREFILL_CHUNK = 1000
PREFIX_CACHE = {"qwen2": None, "qwen3": True, "llama": True}
"""None is off on a CPU."""

STREAMS = torch.randint(VOCABULARY, (64, LONGEST), generator=torch.Generator().manual_seed(0)).tolist()


@dataclass(frozen=True)
class Group:
    """Requests to one prompt, the first tokens of a stream: groups of one stream share the shorter's whole prompt."""

    stream: int
    prompt_tokens: int
    response_tokens: int
    copies: int = 1
    stop: tuple[int, ...] = ()
    """Without, SGLang knows how long a response becomes, and with its prefix cache off never has to retract it."""

    @property
    def prompt(self) -> list[int]:
        return STREAMS[self.stream][: self.prompt_tokens]


Batch = list[Group]

ONE = [Group(0, 1, 20)]
WHOLE_LENGTH = [Group(1, 1, LONGEST // 4), Group(1, LONGEST - 10, 10)]
MANY = [Group(i, 1 + i % 5, 6 + i % 5, copies=16) for i in range(64)]
MIXED = [Group(2, LONGEST - 40, 40), *(Group(3 + i, 1 + i, 40 - i, copies=8) for i in range(30))]
SHARED = [Group(40, length, 12, copies=3) for length in (300, 600, 601, 1200, 1201)]
PAUSED = [*(Group(i, 1 + 5 * i, 150, copies=4) for i in range(12)), Group(50, 1900, 60), Group(51, 1700, 90)]
FILLING = [Group(i, 1 + 3 * i, 200, copies=4, stop=(VOCABULARY,)) for i in range(24)]


def within_budget(groups: Sequence[Group]) -> Batch:
    """As many requests, in order, as one batch may have."""
    batch: Batch = []
    tokens, sequences = MOST_TOKENS, MOST_SEQUENCES
    for group in groups:
        length = group.prompt_tokens + group.response_tokens
        copies = min(group.copies, tokens // length, sequences)
        if copies:
            batch.append(replace(group, copies=copies))
            tokens, sequences = tokens - copies * length, sequences - copies
    return batch


RESPONSES = st.integers(1, 60)
PROMPTS = st.one_of(st.integers(1, 8), st.integers(1, 200), st.integers(1, LONGEST - 60))
COPIES = st.one_of(st.just(1), st.integers(1, 16), st.integers(1, MOST_SEQUENCES))
GROUPS = st.builds(Group, st.integers(0, len(STREAMS) - 1), PROMPTS, RESPONSES, COPIES)
BATCHES = st.lists(GROUPS, min_size=1, max_size=40).map(within_budget)


@dataclass
class Served:
    """A running server and the model that it holds. The tests of an architecture share it on one event loop."""

    loop: asyncio.Runner
    engine: EngineClient
    model: PreTrainedModel
    log_path: Path
    numbers: Iterator[int] = field(default_factory=count)
    """For request ids, of which SGLang takes each only once."""
    events: int = 0
    """Of all responses so far."""

    async def collect(self, group: Group) -> list[StreamedResponse]:
        rids = [f"r{next(self.numbers):08d}" for _ in range(group.copies)]
        sampling = SamplingParams(0.0, group.response_tokens, group.stop)
        done: list[StreamedResponse] = []
        async for response, _ in self.engine.generate([*map(StreamedResponse, rids)], group.prompt, sampling):
            self.events += 1
            if response.finish is not None:
                done.append(response)
        return done

    async def answer(self, batch: Batch) -> list[list[StreamedResponse]]:
        return list(await asyncio.gather(*map(self.collect, batch)))

    def check(self, batch: Batch) -> None:
        check_greedy(self.model, batch, self.loop.run(self.answer(batch)))

    async def update(self, model: PreTrainedModel) -> None:
        """Broadcast the weights of `model`, as the receiver has them received."""
        sender = WeightSender(f"group-{next(self.numbers)}")
        join = sender.join_message()
        await asyncio.gather(
            sender.join(),
            self.engine.init_group(
                name=sender.group,
                address=join.master_address,
                port=join.master_port,
                world_size=2,
                backend="gloo",
                timeout_s=60.0,
            ),
        )
        await self.engine.pause()
        await self.engine.begin_update(timeout_s=60.0)
        first, last = split_buckets(named_weights(model), 2)
        for bucket, version in ((first, None), (last, "1.0")):
            tensors = [TensorDescription(name, "float32", tuple(tensor.shape)) for name, tensor in bucket]
            await asyncio.gather(
                self.engine.receive_bucket(sender.group, tensors, version=version, timeout_s=60.0),
                sender.broadcast(bucket),
            )
        await self.engine.end_update(timeout_s=60.0)
        await self.engine.resume()
        self.model = model


def check_greedy(model: PreTrainedModel, batch: Batch, answers: list[list[StreamedResponse]]) -> None:
    """Every response is the greedy one of `model`, with its log-probabilities."""
    by_sequence: dict[tuple[int, ...], list[tuple[Group, StreamedResponse]]] = {}
    for group, responses in zip(batch, answers, strict=True):
        assert len(responses) == group.copies
        for response in responses:
            assert (response.finish, len(response.ids)) == ("length", group.response_tokens)
            by_sequence.setdefault((*group.prompt, *response.ids), []).append((group, response))
    for sequence, logprobs in batched_logprobs(model, list(by_sequence)):
        for group, response in by_sequence[sequence]:
            rows = logprobs[group.prompt_tokens - 1 :]
            chosen = rows.gather(1, torch.tensor(response.ids)[:, None])[:, 0]
            assert (rows.max(1).values - chosen).max() <= TIE, f"{group}: not greedy"
            error = (torch.tensor(response.logprobs) - chosen).abs().max()
            assert error <= TOLERANCE, f"{group}: log-probabilities differ by {error:.1e}"


async def start(server: SglangServer) -> EngineClient:
    return EngineClient(await server.start())


# Each has a server of its own, which takes its time to start; qwen2 is that of test_sglang.py, too.
EACH = [pytest.param(name, marks=() if name == "qwen3" else pytest.mark.slow) for name in ARCHITECTURES]


@pytest.fixture(scope="module", params=EACH)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp(request.param)
    model = tiny_model(request.param, 0)
    save(model, directory / "model")
    generator = {
        "device": "cpu",
        "prefix_cache": PREFIX_CACHE[request.param],
        "max_total_tokens": POOL_TOKENS,
        "start_deadline_s": START_S,
    }
    spec = make_spec(directory / "model", resources={"generator": generator})
    log_path = directory / "sglang.log"
    server = SglangServer(spec, device="cpu", log_path=log_path)
    flags = server_module.server_flags
    with asyncio.Runner() as loop, pytest.MonkeyPatch.context() as patch:
        # By itself SGLang takes a size that follows from the machine's memory.
        chunks = ["--chunked-prefill-size", str(PREFILL_CHUNK)]
        patch.setattr(server_module, "server_flags", lambda *args, **options: flags(*args, **options) + chunks)
        try:
            engine = loop.run(start(server))
            yield Served(loop, engine, model, log_path)
            loop.run(engine.close())
        finally:
            loop.run(server.kill())


@pytest.mark.timeout(2 * START_S)
@example(ONE)
@example(WHOLE_LENGTH)
@example(MANY)
@example(MIXED)
@example(SHARED)
@settings(max_examples=8, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
@given(BATCHES)
def test_any_batch_is_answered_as_by_transformers(served: Served, batch: Batch) -> None:
    served.check(batch)


def test_new_weights_answer_as_transformers_with_them(served: Served) -> None:
    """The same prompts before and after: what a prefix cache kept of the old weights would show."""
    served.check(MIXED)
    served.check(SHARED)
    served.loop.run(served.update(tiny_model(served.model.config.model_type, 1)))
    for batch in (MIXED, SHARED, MANY, WHOLE_LENGTH):
        served.check(batch)


def test_retraction_by_pauses_changes_nothing(served: Served) -> None:
    """At each pause what is in flight gives its cache back, and is then prefilled anew, prompt and response."""

    async def interrupted() -> list[list[StreamedResponse]]:
        generation = asyncio.create_task(served.answer(PAUSED))
        for new_events in (1, 100, 150):
            enough = served.events + new_events
            while served.events < enough:
                assert not generation.done()
                await asyncio.sleep(0.005)
            await served.engine.pause()
            assert not generation.done()
            await served.engine.resume()
        return await generation

    check_greedy(served.model, PAUSED, served.loop.run(interrupted()))


def test_retraction_by_a_full_pool_changes_nothing(served: Served) -> None:
    retraction = "KV cache pool is full. Retract requests."
    before = served.log_path.read_text().count(retraction)
    served.check(FILLING)
    assert served.log_path.read_text().count(retraction) > before
