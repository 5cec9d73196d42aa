"""What a real SGLang exports is handed on by its generator."""

import asyncio
import tempfile
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dapo.telemetry.server import ENGINE_PATH, MetricsServer
from services.generator.engine.client import EngineClient, SamplingParams
from services.generator.engine.responses import StreamedResponse
from services.generator.engine.server import SglangServer
from services.generator.jobs import request_id
from tests.support.generator.kit import make_spec
from tests.support.models import ALPHABET, save_model

TOKENS = 24
EXPORTED = {"sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage", "sglang:gen_throughput"}
"""Of each engine, also on a CPU."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sglangs_metrics_come_through_the_generators_server_and_its_files_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    save_model(tmp_path / "model", 0)
    spec = make_spec(tmp_path / "model", resources={"generator": {"device": "cpu"}})
    server = SglangServer(spec, device="cpu", log_path=tmp_path / "sglang.log", metrics=True)
    front = MetricsServer("127.0.0.1", 0, {})

    async def generate() -> str:
        engine = EngineClient(await server.start())
        try:
            front.engine = lambda: engine.url
            asked = [StreamedResponse(request_id("g0000000000", 0, 0))]
            prompt = [ALPHABET.index(letter) for letter in "abc>"]
            async for _ in engine.generate(asked, prompt, SamplingParams(1.0, TOKENS, ())):
                pass
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(f"http://{front.address}{ENGINE_PATH}")).raise_for_status().text
        finally:
            await engine.close()
            await server.kill()

    try:
        found = {one.name: one for one in text_string_to_metric_families(asyncio.run(generate()))}
    finally:
        front.close()
    assert found.keys() >= EXPORTED
    assert all("run" not in sample.labels for one in found.values() for sample in one.samples)
    (generated,) = found["sglang:generation_tokens"].samples
    assert generated.value == TOKENS
    assert list((tmp_path / "tmp").glob("dapo-metrics-*")) == []
