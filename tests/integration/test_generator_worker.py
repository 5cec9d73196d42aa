"""The generator's worker against a real Valkey and a simulated engine: claims, retries, refusals, crashes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from dapo.bus import Bus, Delivery
from dapo.bus.embedded import EmbeddedValkey
from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.v1 import messages_pb2 as pb
from services.generator import host, worker, writer
from services.generator.engine import Engine, EngineError, SamplingParams
from tests.integration.generator_kit import Learner, make_spec, make_task, running, until
from tests.models import EOS, save_model
from tests.simulator.engine import SimulatedServer, SimulatorOptions

NAME = "generator-0"
FIRST = pb.Version(incarnation=1, step=0)
GROUP_SIZE = 4


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, 0)
    return directory


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory):
    with EmbeddedValkey(tmp_path_factory.mktemp("redis"), 256) as valkey:
        yield valkey.url


class Run:
    def __init__(self, bus: Bus, epoch: int) -> None:
        self.bus = bus
        self.epoch = epoch

    async def issue(self, texts: list[str], first: int = 0, issued_version: int = 0) -> list[str]:
        tasks = [make_task(first + i, text, group_size=GROUP_SIZE) for i, text in enumerate(texts)]
        for task in tasks:
            task.issued_version = issued_version
        await self.bus.issue_groups(tasks, self.epoch)
        return [task.group_id for task in tasks]

    async def wait_count(self, state: str, count: int) -> None:
        async def reached() -> bool:
            return (await self.bus.ledger_counts())[state] == count

        await until(reached, f"{count} groups {state}")

    async def completions(self, count: int) -> list[pb.Completion]:
        """All entries of the stream, which must be `count`."""
        found = await self.bus.consume("completions", "verifier-0", count=1000, block_s=0.5)
        assert len(found) == count
        return [pb.Completion.FromString(entry.data) for entry in found]


@asynccontextmanager
async def new_run(redis_url: str, name: str, spec_json: str, payload_url: str | None = None) -> AsyncIterator[Run]:
    bus = await Bus.connect(redis_url, name, payload_url=payload_url)
    try:
        await bus.create_run(spec_json, "", "")
        yield Run(bus, await bus.acquire_epoch("orchestrator"))
    finally:
        await bus.close()


@pytest.fixture
def spec(model_path: Path):
    return make_spec(model_path, sampling={"group_size": GROUP_SIZE, "max_response_tokens": 64})


async def check_payloads(run: Run, completions: list[pb.Completion]) -> None:
    """Each completion's payload says what its record says, and its spans cover it."""
    payloads = await run.bus.get_payloads([completion.payload_key for completion in completions])
    for completion, data in zip(completions, payloads, strict=True):
        payload = pb.CompletionPayload.FromString(data or b"")
        ids = decode_ids(payload.response_ids)
        assert len(ids) == len(decode_logprobs(payload.logprobs)) == completion.response_tokens > 0
        assert [span.start for span in payload.spans] == [0, *(span.end for span in payload.spans[:-1])]
        assert payload.spans[-1].end == len(ids)
        steps = [span.version.step for span in payload.spans]
        assert (min(steps), max(steps)) == (completion.version_min, completion.version_max)
        stopped = completion.finish_reason == pb.FINISH_REASON_STOP
        assert list(ids).count(EOS) == stopped == (ids[-1] == EOS)


def test_every_response_of_every_group_is_written_once(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "all", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(stream_interval=4, step_s=0.001))
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                groups = await run.issue(["abc>"] * 60)
                await run.wait_count("generated", 60)
                completions = await run.completions(60 * GROUP_SIZE)
                assert {(c.group_id, c.index) for c in completions} == {
                    (group, index) for group in groups for index in range(GROUP_SIZE)
                }
                await check_payloads(run, completions)
                assert server.engine.calls["/generate"] == 60
                member = await until(idle(learner), "nothing running")
                assert member.generated_tokens == sum(c.response_tokens for c in completions)
                assert 0 < member.busy_s <= member.up_s
            assert await run.bus.members() == []

    asyncio.run(scenario())


def idle(learner: Learner):
    async def condition() -> pb.Member | None:
        member = await learner.member()
        return member if member is not None and member.running == 0 and member.generated_tokens else None

    return condition


def test_prompts_are_left_alone_until_weights_are_known(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "unknown", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await run.issue(["abc>"])
                await asyncio.sleep(1.5)
                assert server.engine.calls["/generate"] == 0
                await learner.announce(FIRST)
                await run.wait_count("generated", 1)

    asyncio.run(scenario())


def test_commands_to_a_predecessor_are_not_carried_out(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "predecessor", spec.model_dump_json()) as run:
            learner = Learner(run.bus, NAME)
            await learner.send(join=pb.JoinGroup(group_name="old", world_size=2, backend="gloo"))
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                assert server.engine.calls["/init_weights_update_group"] == 1

    asyncio.run(scenario())


def test_unusable_prompts_fail_their_groups_with_a_reason(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "unusable", spec.model_dump_json()) as run:
            async with running(run.bus, spec, NAME, SimulatedServer()):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                groups = await run.issue(["a" * 401, "", "abc>"])
                await run.wait_count("failed", 2)
                await run.wait_count("generated", 1)
            letters = {letter["group"]: letter for letter in await run.bus.read_dead_letters()}
            assert letters[groups[0]]["reason"] == "prompt_too_long"
            assert "401 tokens > data.max_prompt_tokens = 400" in letters[groups[0]]["detail"]
            assert letters[groups[1]]["reason"] == "prompt_empty"

    asyncio.run(scenario())


def test_an_engine_crash_costs_no_response(redis_url: str, spec) -> None:
    """Its replacement serves nothing until the learner sends weights again; then the missing responses are made."""

    async def scenario() -> None:
        async with new_run(redis_url, "crash", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=30))
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.issue(["abc>"] * 8)
                await until(some_completions(run), "the first completion")
                await server.crash()
                await learner.wait_state("ready", has_version=False)
                assert server.starts == 2
                await learner.announce(pb.Version(incarnation=1, step=3))
                await run.wait_count("generated", 8)
                completions = await run.completions(8 * GROUP_SIZE)
                await check_payloads(run, completions)
                assert {c.attempt > 0 for c in completions} == {True, False}
                assert {c.version_max for c in completions} == {0, 3}

    asyncio.run(scenario())


def some_completions(run: Run):
    async def condition() -> bool:
        records = await run.bus.read_groups(await run.bus.open_groups())
        missing = [await run.bus.missing_indices(record.task.group_id) for record in records]
        return any(len(left) < GROUP_SIZE for left in missing)

    return condition


def test_a_route_that_hangs_costs_the_engine_and_the_member_comes_back(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "hang", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                server.engine.hang.add("/init_weights_update_group")
                join = pb.JoinGroup(group_name="one", world_size=2, backend="gloo")
                failed = await learner.reply(await learner.send(deadline_s=0.3, join=join))
                assert failed.phase == "failed"
                assert "0.3" in failed.error
                await until(restarted(server), "second start")
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)

    asyncio.run(scenario())


def test_calls_of_a_replaced_engine_are_typed_errors() -> None:
    async def scenario() -> None:
        server = SimulatedServer()
        engine = Engine(await server.start())
        await engine.close()
        with pytest.raises(EngineError, match="replaced"):
            await engine.pause()
        with pytest.raises(EngineError, match="replaced"):
            await anext(engine.generate(["r"], [1], SamplingParams(1.0, 8, ())))
        assert not await engine.healthy(timeout_s=1.0)
        await server.kill()

    asyncio.run(scenario())


def test_an_engine_that_freezes_is_replaced(redis_url: str, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SILENCE_S", 0.5), ("ANSWER_S", 0.5), ("POLL_S", 0.05)):
        monkeypatch.setattr(host, name, seconds)

    async def scenario() -> None:
        async with new_run(redis_url, "frozen", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=30))
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.issue(["abc>"] * 4)
                await until(some_completions(run), "the first completion")
                server.engine.frozen = True
                await until(restarted(server), "second start")
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.wait_count("generated", 4)

    asyncio.run(scenario())


def test_an_engine_that_is_slow_and_well_is_kept(redis_url: str, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SILENCE_S", 0.2), ("ANSWER_S", 5.0), ("POLL_S", 0.05)):
        monkeypatch.setattr(host, name, seconds)

    async def scenario() -> None:
        async with new_run(redis_url, "slow", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.4, mean_tokens=3))
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.issue(["abc>"])
                await run.wait_count("generated", 1)
                assert server.engine.calls["/health"] > 1
                assert server.starts == 1

    asyncio.run(scenario())


def test_a_prompt_waits_for_the_weights_of_its_issue(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "lagging", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.issue(["abc>"], issued_version=2)
                await run.issue(["abc>"], first=1)
                await run.wait_count("generated", 1)
                await learner.announce(pb.Version(incarnation=1, step=1))
                await asyncio.sleep(0.5)
                assert server.engine.calls["/generate"] == 1
                await learner.announce(pb.Version(incarnation=1, step=2))
                await run.wait_count("generated", 2)
                completions = await run.completions(2 * GROUP_SIZE)
                assert {(c.group_id, c.version_min) for c in completions} == {("g0000000000", 2), ("g0000000001", 0)}

    asyncio.run(scenario())


def test_responses_of_unnamed_weights_are_made_again(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "base", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                server.engine.version = "base"
                await run.issue(["abc>"])
                await until(called(server, "/generate", 2), "a second try")
                server.engine.version = "1.0"
                await run.wait_count("generated", 1)
                await check_payloads(run, await run.completions(GROUP_SIZE))

    asyncio.run(scenario())


def called(server: SimulatedServer, route: str, times: int):
    async def condition() -> bool:
        return server.engine.calls[route] >= times

    return condition


def test_a_replaced_learner_is_refused_and_harms_nothing(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "replaced", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                old, new = Learner(run.bus, NAME, 1), Learner(run.bus, NAME, 2)
                await old.wait_state("ready", has_version=False)
                await old.announce(FIRST)
                await new.announce(pb.Version(incarnation=2, step=0))
                before = dict(server.engine.calls)
                for command in (
                    {"join": pb.JoinGroup(group_name="late", world_size=2, backend="gloo")},
                    {"update": pb.UpdateWeights(group_name="late", version=FIRST)},
                    {"leave": pb.LeaveGroup(group_name="late")},
                ):
                    refused = await old.reply(await old.send(**command))
                    assert refused.phase == "failed"
                    assert "incarnation 1 was replaced by 2" in refused.error
                assert dict(server.engine.calls) == before
                member = await new.wait_state("ready", has_version=True)
                assert member.version.incarnation == 2
                await run.issue(["abc>"])
                await run.wait_count("generated", 1)
                assert server.starts == 1

    asyncio.run(scenario())


def test_a_new_generator_knows_of_the_newest_learner(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "knows", spec.model_dump_json()) as run:
            epoch = await run.bus.acquire_epoch("learner")
            await run.bus.set_published_version(pb.Version(incarnation=7, step=3), epoch)
            async with running(run.bus, spec, NAME, SimulatedServer()):
                old = Learner(run.bus, NAME, 6)
                await old.wait_state("ready", has_version=False)
                join = pb.JoinGroup(group_name="late", world_size=2, backend="gloo")
                assert "replaced by 7" in (await old.reply(await old.send(join=join))).error

    asyncio.run(scenario())


def test_prompts_are_taken_a_few_at_a_time(redis_url: str, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one generator does not take all while another, as free, is between two reads."""
    taken: list[int] = []
    consume = Bus.consume

    async def counted(bus: Bus, stream: str, *args: Any, **options: Any) -> list[Delivery]:
        found = await consume(bus, stream, *args, **options)
        if stream == worker.STREAM:
            taken.append(len(found))
        return found

    monkeypatch.setattr(Bus, "consume", counted)

    async def scenario() -> None:
        async with new_run(redis_url, "few", spec.model_dump_json()) as run:
            await run.issue(["abc>"] * 40)
            async with running(run.bus, spec, NAME, SimulatedServer()):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.wait_count("generated", 40)
        assert sum(taken) == 40
        assert max(taken) == worker.READ_LIMIT

    asyncio.run(scenario())


def test_a_full_server_is_told_of_and_waited_for(
    redis_url: str, spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FULL_ALERT_S", 1.0)

    async def scenario(payload_url: str) -> None:
        async with (
            Redis.from_url(payload_url) as payloads,
            new_run(redis_url, "full", spec.model_dump_json(), payload_url) as run,
            running(run.bus, spec, NAME, SimulatedServer()),
        ):
            learner = Learner(run.bus, NAME)
            await learner.wait_state("ready", has_version=False)
            await learner.announce(FIRST)
            await payloads.config_set("maxmemory", 1)
            await run.issue(["abc>"])
            alert = await until(told(run), "an alert")
            assert (await run.bus.ledger_counts())["issued"] == 1
            await payloads.config_set("maxmemory", 1 << 26)
            assert alert["worker_id"] == NAME
            assert "completions wait" in alert["message"]
            await run.wait_count("generated", 1)

    with EmbeddedValkey(tmp_path, 64) as payloads:
        asyncio.run(scenario(payloads.url))


def told(run: Run):
    async def condition() -> dict | None:
        events = await run.bus.read_events("0", block_s=0)
        return next((data for _, kind, data in events if kind == "alert"), None)

    return condition


def restarted(server: SimulatedServer):
    async def condition() -> bool:
        return server.starts == 2

    return condition


def test_responses_of_a_closed_group_are_aborted_and_dropped(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "closed", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=30))
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.issue(["abc>"] * 4)
                await until(some_completions(run), "the first completion")
                assert await run.bus.close_open_groups("drain", run.epoch) == 4
                await until(idle(learner), "nothing running")
                assert server.engine.calls["/abort_request"] > 0
                assert (await run.bus.ledger_counts())["surplus"] == 4

    asyncio.run(scenario())


def test_a_killed_workers_group_is_finished_by_another(redis_url: str, spec, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "killed", spec.model_dump_json()) as run:
            victim = await start_worker(redis_url, "killed", "generator-1", tmp_path)
            learner = Learner(run.bus, "generator-1")
            await learner.wait_state("ready", has_version=False)
            await learner.announce(FIRST)
            await run.issue(["abc>"] * 6)
            await until(some_completions(run), "the first completion")
            victim.send_signal(signal.SIGKILL)
            await victim.wait()
            assert (await run.bus.ledger_counts())["issued"] > 0
            async with running(run.bus, spec, "generator-2", SimulatedServer()):
                successor = Learner(run.bus, "generator-2")
                await successor.wait_state("ready", has_version=False)
                await successor.announce(FIRST)
                await run.wait_count("generated", 6)
                completions = await run.completions(6 * GROUP_SIZE)
                assert len({(c.group_id, c.index) for c in completions}) == 6 * GROUP_SIZE
                assert {c.generator_id for c in completions} == {"generator-1", "generator-2"}
                await check_payloads(run, completions)

    asyncio.run(scenario())


async def start_worker(redis_url: str, run_id: str, worker_id: str, run_dir: Path) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "DAPO_REDIS_URL": redis_url,
        "DAPO_RUN_ID": run_id,
        "DAPO_WORKER_ID": worker_id,
        "DAPO_RUN_DIR": str(run_dir),
        "SIM_STEP_S": "0.05",
        "SIM_MEAN_TOKENS": "30",
    }
    root = Path(__file__).parents[2]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.simulator.worker", env=environment, cwd=root
    )
