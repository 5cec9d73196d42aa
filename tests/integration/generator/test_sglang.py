"""The generator against a real SGLang server on a tiny random model. One server for the module; it starts in ~40 s.

All variables name a proxy where nothing listens, so nothing here may go through one.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForCausalLM

from dapo.bus import Bus, Delivery
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.host.ports import free_port
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import EngineClient, SamplingParams
from services.generator.engine.responses import EngineError, StreamedResponse
from services.generator.engine.server import SglangServer
from services.generator.jobs import request_id
from services.generator.worker import Generator
from tests.support.generator.kit import WAIT_S, Learner, make_spec, make_task, running, until
from tests.support.models import ALPHABET, EOS, SPELLINGS, VOCABULARY, greedy, save_model, tiny_qwen2, token_logprobs
from tests.support.weights import WeightSender

NAME = "generator-0"
RUNNING = 16
START_S = 400.0
"""SGLang's start on a machine that does much else."""
LOGPROB_TOLERANCE = 1e-4
"""These weights are large: transformers in float32 is itself up to 2.5e-5 from transformers in float64."""
PROMPTS = ["a>", "abc>", "abcdefgh>", "abcdefghxyz>", "zyx" * 30 + ">", "q" * 200 + ">"]


def encode(text: str) -> list[int]:
    return [ALPHABET.index(letter) for letter in text]


class Run:
    """Everything the tests of this module share; they run in order on one event loop."""

    def __init__(self, loop: asyncio.Runner, bus: Bus, spec: RunSpec, generator: Generator) -> None:
        self.run = loop.run
        self.bus = bus
        self.spec = spec
        self.generator = generator
        self.learner = Learner(bus, NAME)
        self.sender: WeightSender | None = None

    @property
    def engine(self) -> EngineClient:
        return self.generator.supervisor.engine

    async def collect(
        self, group: int, prompt: list[int], count: int, sampling: SamplingParams
    ) -> dict[str, StreamedResponse]:
        new = [StreamedResponse(request_id(f"g{group:010d}", index, 0)) for index in range(count)]
        return {
            response.rid: response
            async for response, _ in self.engine.generate(new, prompt, sampling)
            if response.finish is not None
        }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Qwen2ForCausalLM]]:
    """The directory served, and three models: the one there, and two for updates."""
    directory = tmp_path_factory.mktemp("model")
    return directory, [save_model(directory, 0), tiny_qwen2(1), tiny_qwen2(2)]


@pytest.fixture(scope="module")
def shared(models: tuple[Path, list[Qwen2ForCausalLM]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("run")
    spec = make_spec(
        models[0],
        resources={
            "generator": {
                "device": "cpu",
                "stream_interval": 4,
                "start_deadline_s": START_S,
                "max_running_requests": RUNNING,
            }
        },
    )
    server = SglangServer(spec, device="cpu", log_path=directory / "logs" / f"{NAME}-sglang.log")
    with (
        pytest.MonkeyPatch.context() as environment,
        EmbeddedValkey(directory / "redis", 256) as valkey,
        asyncio.Runner() as loop,
    ):
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            environment.setenv(variable, f"http://127.0.0.1:{free_port()}")
        environment.delenv("NO_PROXY", raising=False)
        environment.delenv("no_proxy", raising=False)
        bus = loop.run(Bus.connect(valkey.url, "test"))
        context = running(bus, spec, NAME, server)
        run = Run(loop, bus, spec, loop.run(context.__aenter__()))
        try:
            loop.run(run.learner.wait_state("ready", has_version=False, wait_s=START_S))
            yield run
        finally:
            loop.run(context.__aexit__(None, None, None))
            loop.run(bus.close())


def test_greedy_output_and_logprobs_equal_transformers(shared: Run, models) -> None:
    sampling = SamplingParams(0.0, 24, (EOS,))

    async def all_prompts() -> list[dict[str, StreamedResponse]]:
        calls = [shared.collect(100 + i, encode(text), 3, sampling) for i, text in enumerate(PROMPTS)]
        return await asyncio.gather(*calls)

    for text, responses in zip(PROMPTS, shared.run(all_prompts()), strict=True):
        expected = greedy(models[1][0], encode(text), 24)
        assert len(responses) == 3
        for response in responses.values():
            assert response.ids == expected, text
            assert response.finish == ("stop" if expected[-1] == EOS else "length")
            assert [span.version for span in response.spans] == ["base"]
            reference = token_logprobs(models[1][0], encode(text), response.ids)
            assert torch.allclose(torch.tensor(response.logprobs), reference, atol=LOGPROB_TOLERANCE, rtol=0)


def test_requests_that_wait_in_sglang_are_not_taken_for_lost_and_lost_ones_are_dropped(shared: Run) -> None:
    sampling = SamplingParams(1.0, 100, ())

    async def scenario() -> None:
        calls = [shared.collect(300 + i, encode("abc>"), RUNNING, sampling) for i in range(3)]
        collecting = asyncio.gather(*calls)
        await until(waiting, "requests wait")
        assert await shared.engine.drop_lost(0.0, 0.0) == []
        assert {one.finish for responses in await collecting for one in responses.values()} == {"length"}
        assert not await waiting()

        last = asyncio.create_task(shared.collect(303, encode("abc>"), 4, sampling))
        await until(generating, "SGLang generates")
        dropped = await shared.engine.drop_lost(0.0, 0.0)
        responses = await last
        assert {rid for rid, one in responses.items() if one.finish == "abort"} == set(dropped) != set()

    async def waiting() -> bool:
        return await shared.engine.waiting() > 0

    async def generating() -> bool:
        return 0.0 < shared.engine.silence() < 0.5

    shared.run(scenario())


def test_requests_of_a_group_are_sampled_independently(shared: Run) -> None:
    responses = shared.run(shared.collect(200, encode("abc>"), 16, SamplingParams(1.0, 16, (EOS,))))
    assert len({tuple(response.ids) for response in responses.values()}) > 8


def test_abort_ends_some_requests_of_a_group_and_leaves_the_others(shared: Run) -> None:
    sampling = SamplingParams(1.0, 400, ())
    # SGLang aborts the ids of a stream once more 2 s after its end, so none is used again.
    rids = [request_id("g0000000350", index, 0) for index in range(4)]

    async def generate() -> dict[str, StreamedResponse]:
        ended: dict[str, StreamedResponse] = {}
        aborted = False
        async for response, _ in shared.engine.generate([*map(StreamedResponse, rids)], encode("ab>"), sampling):
            if not aborted:
                aborted = True
                await shared.engine.abort(rids[:2])
            if response.finish is not None:
                ended[response.rid] = response
        return ended

    ended = shared.run(generate())
    assert {rid: response.finish for rid, response in ended.items()} == {
        rids[0]: "abort",
        rids[1]: "abort",
        rids[2]: "length",
        rids[3]: "length",
    }
    assert all(len(ended[rid].ids) == 400 for rid in rids[2:])


def test_refusals_are_typed_errors(shared: Run) -> None:
    async def too_long() -> None:
        await shared.collect(400, encode("a" * 1100), 2, SamplingParams(1.0, 8, ()))

    with pytest.raises(EngineError, match="context length"):
        shared.run(too_long())
    with pytest.raises(EngineError, match=r"destroy_weights_update_group: HTTP 400"):
        shared.run(shared.engine.destroy_group("nobody"))


def test_prompts_wait_until_the_learner_has_sent_weights(shared: Run, models) -> None:
    """After the broadcast, greedy output equals transformers on the new weights, and the prompt is answered."""

    async def scenario() -> dict[str, StreamedResponse]:
        epoch = await shared.bus.lease.acquire("orchestrator")
        await shared.bus.groups.issue([make_task(1, "abc>")], epoch)
        await asyncio.sleep(1.0)
        assert (await shared.bus.groups.ledger())["issued"] == 1
        shared.sender = await shared.learner.join(f"{NAME}-1")
        done = await shared.learner.publish(shared.sender, models[1][1], pb.Version(incarnation=1, step=0), buckets=3)
        assert (done.phase, done.error) == ("done", "")
        assert done.pause_s > 0
        await shared.learner.wait_state("ready", has_version=True)
        return await shared.collect(500, encode("abcdefgh>"), 1, SamplingParams(0.0, 24, (EOS,)))

    (response,) = shared.run(scenario()).values()
    assert response.ids == greedy(models[1][1], encode("abcdefgh>"), 24)
    assert [span.version for span in response.spans] == ["1.0"]


def test_a_group_is_written_with_payloads_texts_and_versions(shared: Run, models) -> None:
    async def written() -> list[tuple[pb.Completion, pb.CompletionPayload, bytes]]:
        async def generated() -> bool:
            return (await shared.bus.groups.ledger())["generated"] >= 1

        await until(generated, "group generated")
        entries = await shared.bus.streams.consume("completions", "verifier-0", count=10, block_s=1.0)
        completions = [pb.Completion.FromString(entry.data) for entry in entries]
        payloads = await shared.bus.payloads.get([completion.payload_key for completion in completions])
        texts = await shared.bus.payloads.get([completion.text_key for completion in completions])
        return [
            (completion, pb.CompletionPayload.FromString(payload or b""), text or b"")
            for completion, payload, text in zip(completions, payloads, texts, strict=True)
        ]

    found = shared.run(written())
    assert sorted(completion.index for completion, _, _ in found) == [0, 1, 2, 3]
    for completion, payload, text in found:
        ids, logprobs = decode_ids(payload.response_ids), decode_logprobs(payload.logprobs)
        assert decode_ids(payload.prompt_ids) == encode("abc>")
        assert completion.response_tokens == len(ids) == len(logprobs)
        assert completion.finish_reason == (pb.FINISH_REASON_STOP if ids[-1] == EOS else pb.FINISH_REASON_LENGTH)
        assert ids.count(EOS) <= 1
        assert text.decode() == "".join(SPELLINGS[i] for i in ids)
        assert completion.spans == payload.spans
        assert [(span.version.incarnation, span.version.step, span.start, span.end) for span in payload.spans] == [
            (1, 0, 0, len(ids))
        ]
        reference = token_logprobs(models[1][1], encode("abc>"), ids)
        assert torch.allclose(torch.tensor(logprobs), reference, atol=LOGPROB_TOLERANCE, rtol=0)


@pytest.mark.parametrize(("number", "temperature", "top_p"), [(2, 0.0, 1.0), (3, 1.0, 1e-6)])
def test_a_prompt_of_an_evaluation_is_sampled_in_its_own_way(
    shared: Run, models, number: int, temperature: float, top_p: float
) -> None:
    """Temperature 0, and a nucleus of nothing but the likeliest token, give the greedy response, cut where the
    evaluation cuts it."""

    async def written() -> list[pb.CompletionPayload]:
        epoch = await shared.bus.lease.acquire("orchestrator")
        task = make_task(number, "abcdef>")
        task.group_id, task.evaluation = f"e{number:010d}", "exam"
        task.sampling.CopyFrom(pb.Sampling(temperature=temperature, top_p=top_p, max_response_tokens=5))
        await shared.bus.groups.issue([task], epoch)
        entries: list[Delivery] = []
        async with asyncio.timeout(WAIT_S):
            while len(entries) < task.group_size:
                entries += await shared.bus.streams.consume("completions", "verifier-0", count=10, block_s=1.0)
        keys = [pb.Completion.FromString(entry.data).payload_key for entry in entries]
        return [pb.CompletionPayload.FromString(data or b"") for data in await shared.bus.payloads.get(keys)]

    expected = greedy(models[1][1], encode("abcdef>"), 5)
    assert [decode_ids(payload.response_ids) for payload in shared.run(written())] == [expected] * 4


def test_spans_tell_which_weights_sampled_each_token_across_an_update(shared: Run, models) -> None:
    """16 streams in flight: each token's log-probability is that of its own version's model."""
    prompt, sampling = encode("hello>"), SamplingParams(1.0, 300, ())

    async def scenario() -> dict[str, StreamedResponse]:
        generation = asyncio.create_task(shared.collect(600, prompt, 16, sampling))
        await asyncio.sleep(0.3)
        assert shared.sender is not None
        done = await shared.learner.publish(shared.sender, models[1][2], pb.Version(incarnation=1, step=1), buckets=2)
        assert (done.phase, done.error) == ("done", "")
        assert not generation.done()
        return await generation

    responses = shared.run(scenario())
    assert len(responses) == 16
    by_version = {"1.0": models[1][1], "1.1": models[1][2]}
    for response in responses.values():
        assert len(response.ids) == 300
        assert [span.version for span in response.spans] == ["1.0", "1.1"]
        for span in response.spans:
            reference = token_logprobs(by_version[span.version], prompt, response.ids)[span.start : span.end]
            sampled = torch.tensor(response.logprobs[span.start : span.end])
            assert torch.allclose(sampled, reference, atol=1e-4, rtol=0)


@pytest.mark.timeout(2 * START_S)
def test_an_update_past_its_deadline_costs_the_engine_and_the_member_comes_back(shared: Run, models) -> None:
    """The sender never broadcasts: SGLang is killed, started anew, and served again under a new group."""

    async def scenario() -> dict[str, StreamedResponse]:
        old = shared.engine
        bucket = pb.WeightBucket(tensors=[pb.TensorSpec(name="model.norm.weight", dtype="float32", shape=[64])])
        update = pb.UpdateWeights(group_name=f"{NAME}-1", version=pb.Version(incarnation=1, step=2), buckets=[bucket])
        serial = await shared.learner.send(deadline_s=3.0, update=update)
        assert (await shared.learner.reply(serial)).phase == "ready"
        failed = await shared.learner.reply(serial)
        assert failed.phase == "failed"
        assert "timed out after 6 s" in failed.error
        assert not await old.healthy(timeout_s=5.0)
        await shared.learner.wait_state("ready", has_version=False, wait_s=START_S)
        refused = await shared.learner.reply(await shared.learner.send(update=update))
        assert (refused.phase, "join first" in refused.error) == ("failed", True)
        sender = await shared.learner.join(f"{NAME}-2")
        done = await shared.learner.publish(sender, models[1][1], pb.Version(incarnation=1, step=2), buckets=1)
        assert (done.phase, done.error) == ("done", "")
        return await shared.collect(700, encode("abc>"), 1, SamplingParams(0.0, 16, (EOS,)))

    (response,) = shared.run(scenario()).values()
    assert response.ids == greedy(models[1][1], encode("abc>"), 16)


def test_the_smallest_pool_of_a_spec_serves_the_longest_sequence(tmp_path: Path) -> None:
    """With less SGLang would wait for room for ever, in good health; with stop ids and without."""
    save_model(tmp_path / "model", 0)
    smallest = make_spec(tmp_path / "model").smallest_pool
    spec = make_spec(tmp_path / "model", resources={"generator": {"device": "cpu", "max_total_tokens": smallest}})
    server = SglangServer(spec, device="cpu", log_path=tmp_path / "sglang.log")

    async def lengths() -> list[int]:
        engine = EngineClient(await server.start())
        prompt = [1] * spec.data.max_prompt_tokens
        found = []
        for number, stop in enumerate([(), (VOCABULARY,), ()]):
            sampling = SamplingParams(0.0, spec.sampling.max_response_tokens, stop)
            async with asyncio.timeout(60):
                answers = engine.generate([StreamedResponse(request_id(f"g{number:010d}", 0, 0))], prompt, sampling)
                found += [len(response.ids) async for response, _ in answers if response.finish is not None]
        await engine.close()
        return found

    with asyncio.Runner() as loop:
        try:
            assert loop.run(lengths()) == [spec.sampling.max_response_tokens] * 3
        finally:
            loop.run(server.kill())
