"""Ids without a token, stop strings and special tokens, from a real SGLang server to what the learner makes of them.

One server for the module; it starts in ~40 s.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import SamplingParams
from services.generator.engine.responses import StreamedResponse
from services.generator.engine.server import SglangServer
from services.generator.jobs import request_id
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator
from services.learner.loss.policy import kl_k3
from services.learner.model.policy import PolicyModel, load_causal, masked_ids
from tests.support.generator.kit import Learner, make_spec, make_task, running, until
from tests.support.models import tiny_qwen2

NAME = "generator-0"
START_S = 400.0
WORDS = {">": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bca": 6, "<answer>": 7, "<eos>": 8, "<pad>": 9, "<unk>": 10}
"""5 is a hole."""
VOCABULARY = 32
TOKENLESS = (5, *range(11, VOCABULARY))
STOP = "bc"
TEMPERATURE = 3.0
"""High, so that these peaked random models give every token somewhere."""
LOGPROB_TOLERANCE = 1e-4


def save_padded_model(directory: Path) -> None:
    core = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<answer>"],
    )  # fmt: skip
    tokenizer.save_pretrained(directory)
    model = tiny_qwen2(0, VOCABULARY)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = WORDS["<eos>"], WORDS["<pad>"]
    model.save_pretrained(directory)


class Run:
    """What the tests of this module share; they run on one event loop."""

    def __init__(self, loop: asyncio.Runner, bus: Bus, model: Path, generator: Generator) -> None:
        self.run = loop.run
        self.bus = bus
        self.codec = PromptCodec(str(model))
        causal = load_causal(str(model), "float32")
        self.causal = causal
        self.policy = PolicyModel(causal, TEMPERATURE, masked=masked_ids(causal)).eval()
        self.generator = generator

    def sample(self, group: int, sampling: SamplingParams) -> list[StreamedResponse]:
        async def collect() -> list[StreamedResponse]:
            rids = [request_id(f"g{group:010d}", index, 0) for index in range(64)]
            answers = self.generator.supervisor.engine.generate([*map(StreamedResponse, rids)], [1, 0], sampling)
            return [response async for response, _ in answers if response.finish is not None]

        return self.run(collect())

    @torch.no_grad()
    def learner_logprobs(self, prompt: list[int], response: list[int]) -> torch.Tensor:
        positions = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
        return self.policy(torch.tensor([prompt + response]), positions, torch.tensor(response))[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("run")
    save_padded_model(directory / "model")
    spec = make_spec(
        directory / "model",
        sampling={"group_size": 32, "temperature": TEMPERATURE, "stop": [STOP]},
        resources={"generator": {"device": "cpu", "stream_interval": 4, "start_deadline_s": START_S}},
    )
    server = SglangServer(spec, device="cpu", log_path=directory / "sglang.log")
    with EmbeddedValkey(directory / "redis", 256) as valkey, asyncio.Runner() as loop:
        bus = loop.run(Bus.connect(valkey.url, "test"))
        context = running(bus, spec, NAME, server)
        run = Run(loop, bus, directory / "model", loop.run(context.__aenter__()))
        try:
            loop.run(Learner(bus, NAME).wait_state("ready", has_version=False, wait_s=START_S))
            yield run
        finally:
            loop.run(context.__aexit__(None, None, None))
            loop.run(bus.close())


def test_ids_without_a_token_are_never_sampled_and_both_sides_agree_on_what_is_left(shared: Run) -> None:
    assert shared.codec.masked_ids == shared.policy.masked == TOKENLESS
    plain = SamplingParams(TEMPERATURE, 32, shared.codec.stop_token_ids)
    drawn = {token for response in shared.sample(1, plain) for token in response.ids}
    assert drawn & set(TOKENLESS), "without the mask this model samples them"

    masked = SamplingParams(TEMPERATURE, 32, shared.codec.stop_token_ids, masked=TOKENLESS)
    responses = shared.sample(2, masked)
    assert not {token for response in responses for token in response.ids} & set(TOKENLESS)
    sampler = torch.cat([torch.tensor(response.logprobs) for response in responses])
    learner = torch.cat([shared.learner_logprobs([1, 0], response.ids) for response in responses])
    torch.testing.assert_close(sampler, learner, rtol=0, atol=LOGPROB_TOLERANCE)
    mismatch_kl = kl_k3(learner - sampler).mean().item()
    assert mismatch_kl < 1e-9


def test_greedy_sampling_takes_the_likeliest_of_the_ids_that_have_a_token(shared: Run) -> None:
    greedy = SamplingParams(0.0, 32, shared.codec.stop_token_ids, masked=TOKENLESS)
    responses = shared.sample(3, greedy)
    assert {tuple(response.ids) for response in responses} == {tuple(responses[0].ids)}
    with torch.no_grad():
        logits = shared.causal.base_model(torch.tensor([[1, 0, *responses[0].ids]])).last_hidden_state
        logits = torch.nn.functional.linear(logits, shared.causal.get_output_embeddings().weight)[0, 1:-1]
    logits[:, list(TOKENLESS)] = -torch.inf
    assert responses[0].ids == logits.argmax(-1).tolist()


def test_a_stop_string_ends_what_is_trained_on_with_its_last_token_and_what_is_read_with_itself(shared: Run) -> None:
    async def written() -> list[tuple[pb.Completion, pb.CompletionPayload, str]]:
        learner = Learner(shared.bus, NAME)
        sender = await learner.join(f"{NAME}-1")
        version = pb.Version(incarnation=1, step=0)
        done = await learner.publish(sender, tiny_qwen2(0, VOCABULARY), version, buckets=1)
        assert (done.phase, done.error) == ("done", "")
        epoch = await shared.bus.lease.acquire("orchestrator")
        await shared.bus.groups.issue([make_task(number, "ab>", group_size=32) for number in range(4)], epoch)

        async def generated() -> bool:
            return (await shared.bus.groups.ledger())["generated"] == 4

        await until(generated, "groups generated")
        entries = await shared.bus.streams.consume("completions", "verifier-0", count=200, block_s=1.0)
        completions = [pb.Completion.FromString(entry.data) for entry in entries]
        payloads = await shared.bus.payloads.get([completion.payload_key for completion in completions])
        texts = await shared.bus.payloads.get([completion.text_key for completion in completions])
        return [
            (completion, pb.CompletionPayload.FromString(payload or b""), (text or b"").decode())
            for completion, payload, text in zip(completions, payloads, texts, strict=True)
        ]

    words = {token: word for word, token in WORDS.items()}
    found = shared.run(written())
    assert len(found) == 128
    stopped = within = 0
    for completion, payload, text in found:
        ids = decode_ids(payload.response_ids)
        assert completion.response_tokens == len(ids) == payload.spans[-1].end
        assert not set(ids) & set(TOKENLESS)
        torch.testing.assert_close(
            torch.tensor(decode_logprobs(payload.logprobs)),
            shared.learner_logprobs(decode_ids(payload.prompt_ids), ids),
            rtol=0, atol=LOGPROB_TOLERANCE,
        )  # fmt: skip
        whole = "".join(words[token] for token in ids)
        assert STOP not in "".join(words[token] for token in ids[:-1])
        if STOP in whole:
            stopped += 1
            within += not whole.endswith(STOP)
            assert completion.finish_reason == pb.FINISH_REASON_STOP
            assert text == whole[: whole.index(STOP) + len(STOP)].replace("<pad>", "")
        else:
            assert text == whole.replace("<eos>", "").replace("<pad>", "")
            assert completion.finish_reason == (
                pb.FINISH_REASON_STOP if ids[-1] == WORDS["<eos>"] else pb.FINISH_REASON_LENGTH
            )
    assert stopped > within > 0
    assert any("<answer>" in text for _, _, text in found)


def test_what_sglang_calls_stopped_is_what_is_found_in_the_text(shared: Run) -> None:
    sampling = SamplingParams(TEMPERATURE, 32, shared.codec.stop_token_ids, stop=(STOP,), masked=TOKENLESS)
    words = {token: word for word, token in WORDS.items()}
    for response in shared.sample(4, sampling):
        whole = "".join(words[token] for token in response.ids)
        ended = STOP in whole or response.ids[-1] == WORDS["<eos>"]
        assert response.finish == ("stop" if ended else "length")
        assert STOP not in "".join(words[token] for token in response.ids[:-1])
