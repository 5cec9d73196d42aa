"""A LoRA adapter served apart from the base model, by a real SGLang server: its answers are those of PEFT's model."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("sglang")

from dapo.bus import Bus  # noqa: E402
from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from dapo.spec.tree.training import LoraSpec  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from services.generator.engine.client import SamplingParams  # noqa: E402
from services.generator.engine.responses import StreamedResponse  # noqa: E402
from services.generator.engine.server import SglangServer  # noqa: E402
from services.generator.jobs import request_id  # noqa: E402
from services.generator.worker import Generator  # noqa: E402
from services.learner.model.lora import adapter_weights, add_lora  # noqa: E402
from tests.support.generator.kit import Learner, make_spec, running  # noqa: E402
from tests.support.models import ALPHABET, EOS, greedy, save_model, tiny_qwen2, token_logprobs  # noqa: E402
from tests.support.weights import WeightSender, describe_bucket, split_buckets  # noqa: E402

NAME = "generator-0"
START_S = 400.0
TOLERANCE = 1e-4


def encode(text: str) -> list[int]:
    return [ALPHABET.index(letter) for letter in text]


def adapted(lora: LoraSpec, seed: int) -> Any:
    """The base model of seed 0 with an adapter that is far from 0."""
    model = tiny_qwen2(0)
    add_lora(model, lora, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


async def publish(learner: Learner, sender: WeightSender, model: Any, step: int, *, buckets: int) -> None:
    parts = split_buckets([(n, w.value().detach()) for n, w in adapter_weights(model).items()], buckets)
    update = pb.UpdateWeights(
        group_name=sender.group,
        version=pb.Version(incarnation=1, step=step),
        buckets=[describe_bucket(part) for part in parts],
    )
    serial = await learner.send(update=update)
    assert (await learner.reply(serial)).phase == "ready"
    for part in parts:
        await sender.broadcast(part)
    done = await learner.reply(serial)
    assert (done.phase, done.error) == ("done", "")


async def collect(generator: Generator, number: int, text: str, n: int, sampling: SamplingParams) -> Any:
    rids = [request_id(f"g{number:010d}", index, 0) for index in range(n)]
    answers = generator.supervisor.engine.generate([*map(StreamedResponse, rids)], encode(text), sampling)
    return [response async for response, _ in answers if response.finish is not None]


def assert_greedy(responses: list[StreamedResponse], model: Any, text: str) -> None:
    assert [response.ids for response in responses] == [greedy(model, encode(text), 24)] * len(responses)
    for response in responses:
        reference = token_logprobs(model, encode(text), response.ids)
        assert torch.allclose(torch.tensor(response.logprobs), reference, atol=TOLERANCE, rtol=0)


@pytest.mark.timeout(2 * START_S)
@pytest.mark.parametrize("modules", ["all-linear", pytest.param("q_proj, v_proj, gate_proj", marks=pytest.mark.slow)])
def test_an_adapter_answers_as_peft_does_also_amid_responses(tmp_path: Path, modules: str) -> None:
    save_model(tmp_path / "model", 0)
    spec = make_spec(
        tmp_path / "model",
        resources={"generator": {"device": "cpu", "stream_interval": 4, "start_deadline_s": START_S}},
        lora={"rank": 4, "alpha": 6.0, "target_modules": modules, "serving": "adapter"},
    )
    before, after = adapted(spec.lora, 1), adapted(spec.lora, 2)
    prompt, greedily = "abcdefgh>", SamplingParams(0.0, 24, (EOS,))
    server = SglangServer(spec, device="cpu", log_path=tmp_path / "sglang.log")

    async def scenario(url: str) -> None:
        bus = await Bus.connect(url, "test")
        learner = Learner(bus, NAME)
        async with running(bus, spec, NAME, server) as generator:
            await learner.wait_state("ready", has_version=False, wait_s=START_S)
            assert_greedy(await collect(generator, 1, prompt, 2, greedily), tiny_qwen2(0), prompt)
            sender = await learner.join(f"{NAME}-1")
            await publish(learner, sender, before, 0, buckets=3)
            assert_greedy(await collect(generator, 2, prompt, 2, greedily), before, prompt)

            sampled = asyncio.create_task(collect(generator, 3, "hello>", 8, SamplingParams(1.0, 300, ())))
            await asyncio.sleep(0.5)
            await publish(learner, sender, after, 1, buckets=1)
            assert not sampled.done()
            for response in await sampled:
                assert [span.version for span in response.spans] == ["1.0", "1.1"]
                for span, model in zip(response.spans, (before, after), strict=True):
                    reference = token_logprobs(model, encode("hello>"), response.ids)[span.start : span.end]
                    found = torch.tensor(response.logprobs[span.start : span.end])
                    assert torch.allclose(found, reference, atol=TOLERANCE, rtol=0)

            other = adapted(LoraSpec(rank=4, alpha=6.0, target_modules="all-linear"), 3)
            strange = [(name.replace("mlp", "expert_gate"), w) for name, w in adapter_weights(other).items()][-1:]
            bucket = describe_bucket([(name.replace("down_proj", "router"), w.value()) for name, w in strange])
            version = pb.Version(incarnation=1, step=2)
            update = pb.UpdateWeights(group_name=sender.group, version=version, buckets=[bucket])
            serial = await learner.send(update=update)
            assert (await learner.reply(serial)).phase == "ready"
            await sender.broadcast([(name, w.value().detach()) for name, w in strange])
            failed = await learner.reply(serial)
            assert failed.phase == "failed"
            assert "lora.serving: merged" in failed.error
        await bus.close()

    with EmbeddedValkey(tmp_path / "redis", 256) as valkey:
        asyncio.run(scenario(valkey.url))
