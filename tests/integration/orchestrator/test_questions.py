"""Questions about a run's groups, over REST, gRPC and the command line: while it goes on, and once Redis is gone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import uvicorn
from typer.testing import CliRunner, Result

from dapo.bus import Bus
from dapo.bus.failures import FailureReason
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.cli.main import app
from dapo.records.explanations import GroupExplanation
from dapo.v1 import messages_pb2 as pb
from dapo.v1 import run_pb2, run_pb2_grpc
from services.orchestrator.api.grpc_api import start_grpc
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.rest import create_app
from services.orchestrator.fleet.service import RunService
from services.orchestrator.runs.questions import Questions
from tests.support.bus import drive, generate, group_id, issue, score
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.orchestrator.run_service import kind
from tests.support.orchestrator.stage import services
from tests.support.waiting import eventually


@dataclass
class Scene:
    """A run of a service whose workers the test plays."""

    service: RunService
    run_id: str
    folder: Path
    bus: Bus
    url: str
    http: httpx.AsyncClient
    stub: run_pb2_grpc.RunServiceStub

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(f"/v1/runs/{self.run_id}/{path}")

    async def explain(self, number: int) -> GroupExplanation:
        response = await self.get(f"groups/{group_id(number)}")
        assert response.status_code == 200, response.text
        return GroupExplanation.model_validate(response.json())

    async def until(self, holds: Callable[[run_pb2.Run], object]) -> None:
        for _ in range(1_000):
            if holds(await self.service.get(self.run_id)):
                return
            await asyncio.sleep(0.03)
        pytest.fail("the run did not come to what was awaited")

    async def dapo(self, *arguments: str) -> Result:
        runner = CliRunner(env={"COLUMNS": "160", "DAPO_URL": "", "DAPO_API_TOKEN": ""})
        return await asyncio.to_thread(runner.invoke, app, ["runs", *arguments])


@contextlib.asynccontextmanager
async def scene(spec: dict, folder: Path, url: str | None) -> AsyncIterator[Scene]:
    launcher = FakeLauncher()
    service = RunService(launcher, state_dir=folder, redis_url=url)
    operations = Operations(service)
    server = uvicorn.Server(uvicorn.Config(create_app(operations), port=0, log_config=None))
    grpc_server, grpc_port = await start_grpc(operations, "127.0.0.1", 0)
    serving = asyncio.create_task(server._serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    run = await service.create(json.dumps(spec))
    await eventually(lambda: launcher.applied)
    bus = await Bus.connect(launcher.applied[0][0].redis_url, run.id)
    base = f"http://127.0.0.1:{port}"
    try:
        async with (
            httpx.AsyncClient(base_url=base, trust_env=False) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", [("grpc.enable_http_proxy", 0)]) as channel,
        ):
            stub = run_pb2_grpc.RunServiceStub(channel)
            yield Scene(service, run.id, Path(run.run_dir), bus, base, http, stub)
    finally:
        await bus.close()
        await service.close()
        server.should_exit = True
        await serving
        await grpc_server.stop(None)


def play(spec: dict, folder: Path, url: str | None, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(90), scene(spec, folder, url) as one:
            await act(one)

    asyncio.run(main())


async def publish(one: Scene) -> None:
    """The first weights are there, so prompts are issued."""
    learner = await one.bus.lease.acquire("learner")
    await one.bus.weights.publish_version(pb.Version(incarnation=learner, step=0), learner)
    await one.until(lambda run: run.ledger["issued"])


def test_an_open_group_tells_what_it_waits_for_and_who_has_it(
    valkey: EmbeddedValkey, spec: dict, tmp_path: Path
) -> None:
    async def act(one: Scene) -> None:
        await publish(one)
        unread = await one.explain(0)
        assert (unread.state, unread.missing, unread.responses) == ("issued", (0, 1, 2, 3), ())
        assert [(held.stream, held.worker) for held in unread.holders] == [("prompts", "")]

        (delivery,) = await one.bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        (held,) = (await one.explain(0)).holders
        assert (held.worker, held.alive) == ("generator-0", True)
        shown = await one.dapo("why", one.run_id, "g0", "--url", one.url)
        assert shown.exit_code == 0, shown.output
        assert "It waits for 4 responses of 4; 0 graded." in shown.output
        assert "generator-0 has had its prompt for " in shown.output
        assert "s and is alive." in shown.output

        await generate(one.bus, [delivery])
        await score(one.bus, 3)
        assert (
            "It waits for verdicts: 3 of 4 responses graded."
            in (await one.dapo("why", str(one.folder), "0", "--url", one.url)).output
        )
        answer = await one.stub.ExplainGroup(run_pb2.ExplainGroupRequest(id=one.run_id, group=group_id(0)))
        assert (answer.group, answer.state) == (group_id(0), "generated")
        over_grpc = GroupExplanation.model_validate_json(answer.data)
        assert over_grpc.responses == (await one.explain(0)).responses

    play(spec, tmp_path, valkey.url, act)


def test_a_failed_group_is_issued_once_more_on_request(valkey: EmbeddedValkey, spec: dict, tmp_path: Path) -> None:
    async def act(one: Scene) -> None:
        await publish(one)
        await one.bus.groups.fail(group_id(0), FailureReason.GRADER_FAILED, "response 2: judge: timeout")
        refused = await one.dapo("dead-letters", one.run_id, "--requeue", "g1", "--url", one.url)
        assert (refused.exit_code, "only a failed one is" in refused.output) == (2, True)
        done = await one.dapo("dead-letters", one.run_id, "--requeue", "g0", "--url", one.url)
        assert done.exit_code == 0, done.output
        await one.bus.groups.fail(group_id(1), FailureReason.GRADER_FAILED, "makes room")
        for _ in range(1_000):
            if (failed := await one.explain(0)).requeued_as:
                break
            await asyncio.sleep(0.03)
        new = await one.explain(int(failed.requeued_as[1:]))
        assert (new.row_id, new.requeued_from, new.state) == (failed.row_id, group_id(0), "issued")
        assert (
            f"Its prompt was issued once more, as {new.group_id}."
            in (await one.dapo("why", one.run_id, "g0", "--url", one.url)).output
        )
        again = await one.http.post(f"/v1/runs/{one.run_id}/groups/{group_id(0)}/requeue")
        assert kind(again) == (409, "conflict")
        with pytest.raises(grpc.RpcError) as caught:
            await one.stub.RequeueGroup(run_pb2.RequeueGroupRequest(id=one.run_id, group=group_id(0)))
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        await one.service.stop(one.run_id)
        ended = await one.dapo("dead-letters", one.run_id, "--requeue", "g0", "--url", one.url)
        assert (ended.exit_code, "the run is stopped" in ended.output) == (2, True)

    play(spec, tmp_path, valkey.url, act)


def test_what_nobody_knows_is_refused_by_name(valkey: EmbeddedValkey, spec: dict, tmp_path: Path) -> None:
    async def act(one: Scene) -> None:
        for path, status, code in (
            (f"groups/{group_id(77)}", 404, "not_found"),
            ("groups/x7", 422, "invalid_request"),
            ("dead-letters?count=0", 422, "invalid_request"),
        ):
            response = await one.get(path)
            assert kind(response) == (status, code)
        for method, request in (
            (one.stub.ExplainGroup, run_pb2.ExplainGroupRequest(id=one.run_id, group=group_id(77))),
            (one.stub.ExplainGroup, run_pb2.ExplainGroupRequest(id="none", group=group_id(0))),
            (one.stub.ListDeadLetters, run_pb2.ListDeadLettersRequest(id="none")),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                await method(request)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        refused = await one.dapo("why", "none", "g0", "--url", one.url)
        assert (refused.exit_code, "there is no run 'none'" in refused.output) == (2, True)
        silent = await one.dapo("why", "none", "g0", "--url", "http://127.0.0.1:9")
        assert (silent.exit_code, "and there is no folder none" in silent.output) == (5, True)
        assert (await one.dapo("why", one.run_id, "zero", "--url", one.url)).exit_code == 2

    play(spec, tmp_path, valkey.url, act)


@pytest.mark.parametrize("embedded", [False, True])
def test_after_the_end_the_folder_answers(valkey: EmbeddedValkey, spec: dict, tmp_path: Path, embedded: bool) -> None:
    """The records leave a Redis of others with the run, and an embedded Valkey goes."""
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"prompt": f"p{i}", "answer": "a"}) + "\n" for i in range(9)))

    async def act(one: Scene) -> None:
        async with services(one.bus) as workers:
            workers.correct = lambda group, index: index % 2 == 0 and group != group_id(1)
            workers.fail = lambda group: group == group_id(2)
            await workers.learn()
            epoch = await one.bus.lease.acquire("learner")
            await one.bus.batches.commit_checkpoint(1, epoch)
            await one.until(lambda run: run.state == run_pb2.RUN_STATE_SUCCEEDED)
        trained, filtered, failed = [await one.explain(number) for number in range(3)]
        assert (trained.state, trained.step, trained.batch) == ("trained", 1, 0)
        assert [one.what for one in trained.happenings] == [
            "issued",
            "generated",
            "scored",
            "kept",
            "batched",
            "trained",
        ]
        assert [response.verdict.correct for response in trained.responses] == [True, False, True, False]
        assert (filtered.state, filtered.reason) == ("filtered", "all wrong")
        assert (failed.state, failed.failure.reason) == ("failed", "prompt_too_long")

        folder = str(one.folder)
        shown = await one.dapo("why", folder, "g0")
        assert shown.exit_code == 0, shown.output
        assert "It was kept (2 of 4 correct) and trained on in step 1 (batch 0)." in shown.output
        told = json.loads((await one.dapo("why", folder, "g0", "--json")).stdout)
        assert GroupExplanation.model_validate(told) == trained
        letters = (await one.get("dead-letters")).json()["letters"]
        assert [(letter["group"], letter["reason"]) for letter in letters] == [(group_id(2), "prompt_too_long")]
        over_grpc = await one.stub.ListDeadLetters(run_pb2.ListDeadLettersRequest(id=one.run_id))
        assert [(letter.group, letter.explanation) for letter in over_grpc.letters] == [
            (group_id(2), letters[0]["explanation"])
        ]
        listed = await one.dapo("dead-letters", folder)
        assert group_id(2) in listed.output
        assert "data.max_prompt_tokens" in listed.output
        by_line = (await one.dapo("dead-letters", folder, "--json")).stdout
        assert [json.loads(line) for line in by_line.splitlines()] == letters

        # Without the archive the samples tell what they can, and the rest is said to be unknown.
        (one.folder / "groups.pb.gz").unlink()
        shown = await one.dapo("why", folder, "g0")
        assert "It is among the run's samples" in shown.output
        assert "2 of 4 correct" in shown.output
        gone = await one.dapo("why", folder, "g2")
        assert gone.exit_code == 2
        assert f"nothing is known of group {group_id(2)}" in gone.output

    play(spec, tmp_path / "state", None if embedded else valkey.url, act)


def test_once_all_is_kept_no_question_meets_a_server_that_is_ending(tmp_path: Path) -> None:
    @dataclass
    class Ending:
        bus: Bus

    async def nothing() -> None: ...

    async def scenario(bus: Bus) -> None:
        await issue(bus, 1)
        questions = Questions(tmp_path, Ending(bus))
        await questions.keep(nothing)
        valkey.kill()
        assert (await questions.explain(group_id(0))).state == "issued"
        assert await questions.dead_letters(1) == []

    with EmbeddedValkey(tmp_path / "valkey", 64) as valkey:
        drive(valkey.url, scenario)
