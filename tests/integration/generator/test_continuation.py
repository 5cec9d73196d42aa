"""Responses that are cut off and go on, with a real SGLang server on a tiny random model. One server for the module."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForCausalLM

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.generator import worker
from services.generator.engine.client import EngineClient, EngineEndpoint, SamplingParams
from services.generator.engine.responses import Prefix, StreamedResponse, covers
from services.generator.engine.server import SglangServer
from services.generator.worker import Generator
from tests.support.generator.kit import Learner, make_spec, make_task, running, until
from tests.support.models import ALPHABET, save_model, tiny_qwen2, token_logprobs
from tests.support.weights import WeightSender

START_S = 400.0
TOLERANCE = 1e-4
MOST = 700
GROUP_SIZE = 4


def encode(text: str) -> list[int]:
    return [ALPHABET.index(letter) for letter in text]


@torch.no_grad()
def endless_greedy(model: Qwen2ForCausalLM, prompt: list[int], tokens: int) -> list[int]:
    """So many likeliest tokens, one after the other, whatever they are."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


class LentServer:
    """The module's server, for one generator after the other: it outlives each unless `crash` ends it."""

    def __init__(self, server: SglangServer) -> None:
        self.server = server
        self.endpoint: EngineEndpoint | None = None
        self._crashed = asyncio.Event()

    async def start(self) -> EngineEndpoint:
        if self.endpoint is None:
            self._crashed = asyncio.Event()
            self.endpoint = await self.server.start()
        return self.endpoint

    async def wait_exit(self) -> str:
        await self._crashed.wait()
        return "it was killed"

    async def kill(self) -> None:
        pass

    async def crash(self) -> None:
        await self.server.kill()
        self.endpoint = None
        self._crashed.set()


class Stage:
    def __init__(self, loop: asyncio.Runner, spec: RunSpec, redis_url: str, server: LentServer) -> None:
        self.run = loop.run
        self.spec = spec
        self.redis_url = redis_url
        self.server = server
        self._runs = 0

    @asynccontextmanager
    async def serving(
        self, model: Qwen2ForCausalLM, **weight_sync: str
    ) -> AsyncIterator[tuple[Bus, Generator, Learner, WeightSender]]:
        """A generator that serves `model` as version 1.0."""
        self._runs += 1
        weights = self.spec.weight_sync.model_copy(update=weight_sync)
        bus = await Bus.connect(self.redis_url, f"run-{self._runs}")
        name = f"generator-{self._runs}"
        try:
            async with running(bus, self.spec.model_copy(update={"weight_sync": weights}), name, self.server) as made:
                learner = Learner(bus, name)
                await learner.wait_state("ready", has_version=False, wait_s=START_S)
                sender = await learner.join(name)
                await publish(learner, sender, model, 0)
                yield bus, made, learner, sender
        finally:
            await bus.close()


async def publish(learner: Learner, sender: WeightSender, model: Qwen2ForCausalLM, step: int) -> None:
    done = await learner.publish(sender, model, pb.Version(incarnation=1, step=step), buckets=1)
    assert (done.phase, done.error) == ("done", "")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Qwen2ForCausalLM]]:
    """The directory served, and three models: the one there, and two for updates."""
    directory = tmp_path_factory.mktemp("model")
    return directory, [save_model(directory, 0), tiny_qwen2(1), tiny_qwen2(2)]


@pytest.fixture(scope="module")
def stage(models: tuple[Path, list[Qwen2ForCausalLM]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("run")
    generator = {"device": "cpu", "stream_interval": 4, "start_deadline_s": START_S, "max_running_requests": 16}
    sampling = {"group_size": GROUP_SIZE, "max_response_tokens": MOST}
    spec = make_spec(models[0], resources={"generator": generator}, sampling=sampling, data={"max_prompt_tokens": 100})
    with EmbeddedValkey(directory / "redis", 256) as valkey, asyncio.Runner() as loop:
        server = LentServer(SglangServer(spec, device="cpu", log_path=directory / "sglang.log"))
        try:
            loop.run(server.start())
            yield Stage(loop, spec, valkey.url, server)
        finally:
            loop.run(server.crash())


def connect(stage: Stage) -> EngineClient:
    assert stage.server.endpoint is not None
    return EngineClient(stage.server.endpoint)


async def finish(engine: EngineClient, begun: StreamedResponse, prompt: list[int], most: int) -> StreamedResponse:
    async with aclosing(engine.generate([begun], prompt, SamplingParams(0.0, most, ()))) as events:
        async for response, _ in events:
            assert covers(response.spans, len(response.ids))
    return response


@pytest.mark.parametrize("tokens", [1, 9, 40, 63])
def test_a_greedy_response_that_was_cut_off_equals_the_one_that_was_not(stage: Stage, models, tokens: int) -> None:
    """The ids are those of transformers, and so are the log-probabilities, before and behind the joint."""
    prompt, most = encode("abcdefgh>"), 64

    async def cut_and_go_on() -> tuple[Prefix, StreamedResponse]:
        engine = connect(stage)
        try:
            async with aclosing(
                engine.generate([StreamedResponse(f"cut-{tokens:02d}")], prompt, SamplingParams(0.0, most, ()))
            ) as events:
                async for response, _ in events:
                    if len(response.ids) >= tokens:
                        break
            prefix = response.known().cut(tokens)
            return prefix, await finish(engine, StreamedResponse.after(f"rest-{tokens:02d}", prefix), prompt, most)
        finally:
            await engine.close()

    prefix, response = stage.run(cut_and_go_on())
    assert len(prefix) == tokens
    expected = endless_greedy(models[1][0], prompt, most)
    assert (response.ids, response.finish) == (expected, "length")
    reference = token_logprobs(models[1][0], prompt, expected)
    assert torch.allclose(torch.tensor(response.logprobs), reference, atol=TOLERANCE, rtol=0)


def test_an_interruption_ends_running_and_waiting_requests_with_tokens_that_go_on(stage: Stage, models) -> None:
    """More requests than run at once; each goes on to its greedy end."""
    prompt, most, count = encode("abc>"), 600, 24

    async def scenario() -> tuple[list[Prefix], list[StreamedResponse]]:
        engine = connect(stage)
        first = [StreamedResponse(f"first-{number:02d}") for number in range(count)]
        try:
            generating = asyncio.create_task(all_of(engine, first))
            await until(begun(first), "tokens come")
            await engine.interrupt(30.0)
            await generating
            assert {one.finish for one in first} == {"abort"}
            prefixes = [one.known() for one in first]
            assert all(len(prefix) == len(one.ids) for prefix, one in zip(prefixes, first, strict=True))
            second = [StreamedResponse.after(f"second-{n:02d}", prefix) for n, prefix in enumerate(prefixes)]
            await all_of(engine, second)
            return prefixes, second
        finally:
            await engine.close()

    async def all_of(engine: EngineClient, responses: list[StreamedResponse]) -> None:
        async with aclosing(engine.generate(responses, prompt, SamplingParams(0.0, most, ()))) as events:
            async for _ in events:
                pass

    def begun(responses: list[StreamedResponse]):
        async def condition() -> bool:
            return any(one.ids for one in responses)

        return condition

    prefixes, responses = stage.run(scenario())
    assert 0 < sum(len(prefix) for prefix in prefixes) < count * most
    expected = endless_greedy(models[1][0], prompt, most)
    assert all((one.ids, one.finish) == (expected, "length") for one in responses)


async def completions_of(bus: Bus) -> list[tuple[pb.Completion, pb.CompletionPayload]]:
    async def generated() -> bool:
        return (await bus.groups.ledger())["generated"] == 1

    await until(generated, "the group is generated", START_S)
    entries = await bus.streams.consume("completions", "verifier-0", count=10, block_s=1.0)
    found = [pb.Completion.FromString(entry.data) for entry in entries]
    payloads = await bus.payloads.get([one.payload_key for one in found])
    return [(one, pb.CompletionPayload.FromString(data or b"")) for one, data in zip(found, payloads, strict=True)]


async def issue(bus: Bus, generator: Generator, number: int, tokens: int) -> None:
    """One group, of which so many tokens are sampled when this returns. Numbers differ, and so do request ids:
    SGLang aborts them once more 2 s after their stream has ended."""
    made = generator.membership.snapshot().generated_tokens

    async def sampled() -> bool:
        return generator.membership.snapshot().generated_tokens >= made + tokens

    await bus.groups.issue(
        [make_task(number, "hello>", group_size=GROUP_SIZE)], await bus.lease.acquire("orchestrator")
    )
    await until(sampled, f"{tokens} tokens are sampled")


def check_versions(
    found: list[tuple[pb.Completion, pb.CompletionPayload]], models: dict[int, Qwen2ForCausalLM], steps: list[int]
) -> None:
    """Each token's log-probability is that of its own version's model; the spans are of these steps."""
    assert sorted(completion.index for completion, _ in found) == list(range(GROUP_SIZE))
    for completion, payload in found:
        prompt, ids = decode_ids(payload.prompt_ids), decode_ids(payload.response_ids)
        assert completion.response_tokens == len(ids) == len(decode_logprobs(payload.logprobs))
        assert [span.version.step for span in payload.spans] == steps
        assert payload.spans[-1].end == len(ids)
        logprobs = torch.tensor(decode_logprobs(payload.logprobs))
        for span in payload.spans:
            part = slice(span.start, span.end)
            reference = token_logprobs(models[span.version.step], prompt, ids)[part]
            assert torch.allclose(logprobs[part], reference, atol=TOLERANCE, rtol=0)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token ends a response, so that all are in flight when the update comes."""
    params = worker.SamplingParams
    monkeypatch.setattr(
        worker, "SamplingParams", lambda temperature, most, stops, **rest: params(temperature, most, (), **rest)
    )


@pytest.mark.parametrize(("mode", "steps"), [("continue", [0, 1]), ("abort", [0, 1]), ("drain", [0])])
def test_responses_in_flight_at_an_update_go_on_or_begin_again_or_end_first(
    stage: Stage, models, endless: None, mode: str, steps: list[int]
) -> None:
    async def scenario() -> list[tuple[pb.Completion, pb.CompletionPayload]]:
        async with stage.serving(models[1][1], in_flight=mode) as (bus, generator, learner, sender):
            await issue(bus, generator, ["continue", "abort", "drain"].index(mode), 60 * GROUP_SIZE)
            await publish(learner, sender, models[1][2], 1)
            return await completions_of(bus)

    found = stage.run(scenario())
    check_versions(found, {0: models[1][1], 1: models[1][2]}, steps)
    for completion, payload in found:
        assert completion.response_tokens == MOST
        kept = payload.spans[0].end if mode == "abort" else 0
        assert completion.salvaged_tokens == kept


@pytest.mark.timeout(2 * START_S)
def test_an_update_and_then_the_death_of_sglang_cost_no_token_that_was_told(
    stage: Stage, models, endless: None
) -> None:
    """The response goes on with a third version, on another SGLang; its tokens say which weights sampled them."""

    async def scenario() -> list[tuple[pb.Completion, pb.CompletionPayload]]:
        async with stage.serving(models[1][1]) as (bus, generator, learner, sender):
            await issue(bus, generator, 3, 40 * GROUP_SIZE)
            await publish(learner, sender, models[1][2], 1)
            made = generator.membership.snapshot().generated_tokens

            async def sampled() -> bool:
                return generator.membership.snapshot().generated_tokens >= made + 40 * GROUP_SIZE

            await until(sampled, "tokens of the second version")
            await stage.server.crash()
            await learner.wait_state("ready", has_version=False, wait_s=START_S)
            again = await learner.join("again")
            await publish(learner, again, models[1][0], 2)
            return await completions_of(bus)

    found = stage.run(scenario())
    check_versions(found, {0: models[1][1], 1: models[1][2], 2: models[1][0]}, [0, 1, 2])
    for completion, payload in found:
        assert completion.salvaged_tokens == payload.spans[1].end >= 70
        assert completion.response_tokens == MOST
