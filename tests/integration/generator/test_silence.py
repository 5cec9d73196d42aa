"""Requests that the engine loses, and those that are only slow: real Valkey, simulated engine."""

import asyncio

from dapo.spec import RunSpec
from services.generator.engine.client import EngineClient, SamplingParams
from services.generator.engine.responses import StreamedResponse
from tests.support.bus import read_alerts
from tests.support.generator.runs import GROUP_SIZE, NAME, check_payloads, new_run, serving
from tests.support.simulator.engine import SimulatedServer, SimulatorOptions


def with_silence(spec: RunSpec, seconds: float) -> RunSpec:
    generator = spec.resources.generator.model_copy(update={"request_silence_s": seconds})
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"generator": generator})})


def test_lost_requests_are_made_again_and_no_others(redis_url: str, spec: RunSpec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "vanished", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with serving(run, with_silence(spec, 0.5), server):
                server.engine.lose = GROUP_SIZE + 1
                await run.issue(["abc>"] * 3)
                await run.wait_count("generated", 3)
                completions = await run.completions(3 * GROUP_SIZE)
                await check_payloads(run, completions)
                assert sorted(c.attempt for c in completions) == [0] * (2 * GROUP_SIZE - 1) + [1] * (GROUP_SIZE + 1)
                assert server.starts == 1
                told = [alert["message"] for alert in await read_alerts(run.bus)]
                assert all("resources.generator.request_silence_s" in message for message in told)
                assert told[0].startswith(f"{NAME}: ")

    asyncio.run(scenario())


def test_requests_that_wait_for_room_are_left_in_peace(redis_url: str, spec: RunSpec) -> None:
    """Two run at a time, so the last ones are silent for many times the bound."""

    async def scenario() -> None:
        async with new_run(redis_url, "queue", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, max_running=2, stream_interval=1))
            async with serving(run, with_silence(spec, 0.3), server):
                await run.issue(["abc>"] * 4)
                await run.wait_count("generated", 4)
                assert {c.attempt for c in await run.completions(4 * GROUP_SIZE)} == {0}
                assert server.engine.calls["/v1/loads"] > 0
                assert server.engine.calls["/abort_request"] == 0

    asyncio.run(scenario())


def test_what_shares_a_stream_with_a_lost_request_is_finished_first() -> None:
    async def scenario() -> None:
        server = SimulatedServer(SimulatorOptions(step_s=0.02, stream_interval=1, mean_tokens=1000))
        engine = EngineClient(await server.start())
        server.engine.lose = 1

        async def collect() -> list[tuple[str, str, int]]:
            asked = [StreamedResponse("lost"), StreamedResponse("well")]
            stream = engine.generate(asked, [1], SamplingParams(1.0, 60, ()))
            found = [one async for one, _ in stream if one.finish is not None]
            return [(one.rid, str(one.finish), len(one.ids)) for one in found]

        collecting = asyncio.create_task(collect())
        dropped: list[str] = []
        while not dropped:
            await asyncio.sleep(0.05)
            dropped = await engine.drop_lost(0.5, 0.05)
        assert dropped == ["lost"]
        assert await collecting == [("well", "length", 60), ("lost", "abort", 0)]
        assert await engine.drop_lost(0.0, 0.0) == []
        await engine.close()
        await server.kill()

    asyncio.run(scenario())


def test_nothing_is_lost_while_weights_are_sent() -> None:
    async def scenario() -> None:
        server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=1000))
        engine = EngineClient(await server.start())
        stream = engine.generate([StreamedResponse("one")], [1], SamplingParams(1.0, 60, ()))
        await anext(stream)
        await engine.pause()
        assert await engine.drop_lost(0.0, 0.0) == []
        await engine.resume()
        assert [one.finish async for one, _ in stream][-1] == "length"
        await engine.close()
        await server.kill()

    asyncio.run(scenario())
