"""A run's execution where Redis goes away, wholly or for a moment."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.spec.load import parse_spec
from services.orchestrator.launch.supervisor import ChildFailure
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.execution import Execution, RunFailed

SPEC = parse_spec(json.dumps({"model": {"path": "./m"}, "data": {"path": "d.jsonl"}}))
RUN = "execution"


def make_execution(folder: Path, url: str) -> Execution:
    recorder = Recorder(folder / "run", SPEC, RUN)
    return Execution(RUN, SPEC, recorder, redis_url=url, created_at=datetime.now(UTC))


def test_a_failed_service_is_named_though_redis_is_gone(tmp_path: Path) -> None:
    failure = ChildFailure("generator-0", 1, tmp_path / "generator-0.log", "the last words")

    async def scenario() -> None:
        execution = make_execution(tmp_path, server.url)
        execution._bus = await Bus.connect(server.url, RUN)
        server.kill()
        with pytest.raises(RunFailed, match=r"generator-0 exited with code 1\n[\s\S]*the last words"):
            await execution._fail(failure)
        event = await anext(execution.events.watch(""))
        assert (event.kind, event.data["worker_id"], event.data["state"]) == ("service", "generator-0", "failed")
        await execution._bus.close()

    server = EmbeddedValkey(tmp_path / "valkey", memory_mib=16)
    with server:
        asyncio.run(scenario())


def test_events_go_on_after_their_connection_broke(
    valkey: EmbeddedValkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        execution = make_execution(tmp_path, valkey.url)
        bus = await Bus.connect(valkey.url, RUN)
        pump = asyncio.create_task(execution._pump_events(bus))
        events = execution.events.watch("")
        await bus.emit_event("step", {"step": 1})
        assert (await anext(events)).data == {"step": 1}
        await asyncio.sleep(0.2)  # now it waits in a blocking read
        await bus.control.client.client_kill_filter(_type="normal", skipme=True)
        await bus.emit_event("step", {"step": 2})
        assert (await anext(events)).data == {"step": 2}
        await bus.emit_event("state", {"state": "succeeded"})
        await pump
        await bus.close()

    asyncio.run(scenario())
    assert "cannot be read, trying again" in caplog.text
