"""A run whose workers or Valkey end, or fall silent: started again by policy, with a launcher without processes."""

import asyncio
import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import ServiceChanged
from services.orchestrator.runs import monitor
from tests.support.orchestrator.control import PROMPTS, STEPS, make_spec
from tests.support.orchestrator.stage import RUN, Stage, learn_to_the_end, run_stage, services
from tests.support.waiting import eventually


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat is the predecessor's for a moment only."""
    monkeypatch.setattr(monitor, "HEARTBEAT_TTL_S", 0.5)


@pytest.mark.usefixtures("short_lives")
def test_a_silent_worker_is_told_of_once(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        await bus.registry.beat("verifier", "verifier-0", ttl_s=3.0)
        await eventually(stage.alerts)
        await asyncio.sleep(2)
        await bus.close()
        await stage.driver.stop()

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url)
    assert stage.alerts() == ["verifier-0 sends no heartbeat"]
    assert stage.states()[-1] == "stopped"


def server_at(port: int | None) -> psutil.Process:
    (server,) = [one for one in psutil.Process().children() if f":{port}" in " ".join(one.cmdline())]
    return server


def test_an_embedded_valkey_that_is_frozen_is_replaced_with_its_data_and_the_run_goes_on(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        learning = asyncio.create_task(learn_to_the_end(stage, commit=True))
        await eventually(lambda: stage.steps() >= 1)
        frozen = server_at(urlsplit(stage.launcher.applied[0][0].redis_url).port)
        frozen.send_signal(signal.SIGSTOP)
        await eventually(stage.alerts, 60.0)
        assert not frozen.is_running()
        await learning

    # The least that counts as frozen, 5 s, is more than a third of this.
    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"redis": {"outage_s": 14.0}}})
    stage = run_stage(spec, tmp_path / "run", play, url=None)
    assert stage.states()[-1] == "succeeded"
    (alert,) = stage.alerts()
    assert re.fullmatch(
        r"the embedded Valkey did not answer for \d+ s, and was started again with its data \(restart 1 of 5\)", alert
    )
    assert stage.summary()["ledger"]["trained"] == STEPS * PROMPTS
    assert stage.steps() == STEPS


def test_an_embedded_valkey_that_is_killed_comes_back_and_the_run_trains_to_its_end(tmp_path: Path) -> None:
    """Killed again and again, while scripted services generate, grade and train."""

    async def play(stage: Stage) -> None:
        learning = asyncio.create_task(learn_to_the_end(stage, commit=True))
        for number in range(1, 4):
            await eventually(lambda number=number: stage.steps() >= number)
            port = urlsplit(stage.launcher.applied[0][0].redis_url).port
            server_at(port).kill()
            await eventually(lambda number=number: any(f"(restart {number} of 5)" in one for one in stage.alerts()))
        await learning

    stage = run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=None)
    assert stage.states()[-1] == "succeeded"
    assert stage.alerts()[0].startswith(
        "the embedded Valkey was ended by signal 9, and was started again with its data"
    )
    ledger = stage.summary()["ledger"]
    assert ledger["trained"] == STEPS * PROMPTS
    assert stage.summary()["issued_groups"] == sum(ledger.values())
    assert stage.steps() == STEPS


def test_an_embedded_valkey_that_dies_too_often_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        port = urlsplit(stage.launcher.applied[0][0].redis_url).port
        server_at(port).kill()
        await eventually(lambda: any("(restart 1 of 1)" in one for one in stage.alerts()))
        server_at(port).kill()
        await eventually(lambda: stage.states()[1:])

    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"restarts": {"limit": 1}}})
    stage = run_stage(spec, tmp_path / "run", play, url=None)
    assert stage.states()[-1] == "failed"
    message = stage.summary()["message"]
    assert message.startswith("the embedded Valkey was ended by signal 9\n")
    assert f"{tmp_path}/run/redis/valkey.log" in message
    assert "Ready to accept connections" in message


def started_again(stage: Stage) -> list[str]:
    events = (event for _, event in stage.seen if isinstance(event, ServiceChanged))
    return [event.message for event in events if event.state == "ended" and event.message is not None]


def test_workers_that_end_are_started_again_and_the_run_goes_on_to_its_end(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        await eventually(lambda: stage.states() == ["starting"])
        stage.launcher.end(RUN, "verifier-0", -9)
        async with services(bus) as workers:
            learning = asyncio.create_task(workers.learn())
            await eventually(lambda: stage.states()[-1:] == ["running"])
            stage.launcher.end(RUN, "generator-0", 1)
            stage.launcher.end(RUN, "learner-1", -6)
            await eventually(lambda: len(stage.launcher.restarted) == 3)
            await learning
            await bus.batches.commit_checkpoint(STEPS - 1, await bus.lease.acquire("learner"))
            await eventually(lambda: stage.states()[-1] in ("succeeded", "failed"))
        await bus.close()

    resources = {"learner": {"ranks": 2}, "restarts": {"pause_s": 0.1}}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": resources})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "succeeded"
    assert sorted(stage.launcher.restarted) == [["generator-0"], ["learner-0", "learner-1"], ["verifier-0"]]
    assert sorted(started_again(stage)) == [
        "generator-0 exited with code 1; generator-0 is started again at once (restart 1 of 5)",
        "learner-1 was ended by signal 6; all 2 ranks of the learner are started again at once (restart 1 of 5)",
        "verifier-0 was ended by signal 9; verifier-0 is started again at once (restart 1 of 5)",
    ]
    assert stage.summary()["restarts"] == 3


def test_a_worker_that_ends_again_and_again_ends_the_run(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        for restarts in range(3):
            stage.launcher.end(RUN, "verifier-0", -9)
            await eventually(lambda: len(stage.launcher.restarted) > restarts or stage.states()[-1] == "failed")  # noqa: B023

    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"restarts": {"pause_s": 0.1, "limit": 2}}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.states() == ["starting", "failed"]
    message = stage.summary()["message"]
    assert message.startswith(
        "verifier-0 was ended by signal 9, after 2 restarts within 600 s\nend of log of verifier-0:"
    )


def test_one_of_two_that_ends_again_and_again_is_started_after_the_longest_pause(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        for restarts in range(4):
            stage.launcher.end(RUN, "verifier-1", -9)
            await eventually(lambda restarts=restarts: len(stage.launcher.restarted) > restarts)
        await stage.driver.stop()

    restarts = {"pause_s": 0.1, "limit": 2, "longest_pause_s": 0.3}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"verifier": {"replicas": 2}, "restarts": restarts}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "stopped"
    assert (
        started_again(stage)[2:]
        == [
            "verifier-1 was ended by signal 9; verifier-1 is started again in 0.3 s "
            "(it had 2 restarts within 600 s; the others go on)"
        ]
        * 2
    )


@pytest.mark.usefixtures("short_lives")
def test_a_frozen_worker_is_told_of_and_then_started_again(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        await bus.registry.beat("verifier", "verifier-0", ttl_s=3.0)
        await eventually(lambda: stage.launcher.restarted)
        await bus.close()
        await stage.driver.stop()

    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"restarts": {"pause_s": 0.1, "silence_s": 2.0}}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.launcher.restarted == [["verifier-0"]]
    assert stage.alerts() == ["verifier-0 sends no heartbeat"]
    (words,) = started_again(stage)
    assert words.startswith("verifier-0 sent no heartbeat for 2 s; verifier-0 is started again")


def test_one_of_two_that_does_not_go_away_is_tried_again_while_the_other_goes_on(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        stage.launcher.stuck.add("verifier-1")
        stage.launcher.end(RUN, "verifier-1", -9)
        await eventually(lambda: len(stage.alerts()) == 2)
        stage.launcher.end(RUN, "verifier-0", -9)
        await eventually(lambda: stage.launcher.restarted == [["verifier-0"]])
        await eventually(lambda: len(stage.alerts()) == 4)
        stage.launcher.stuck.clear()
        await eventually(lambda: ["verifier-1"] in stage.launcher.restarted)
        await stage.driver.stop()

    restarts = {"limit": 3, "longest_pause_s": 0.3}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"verifier": {"replicas": 2}, "restarts": restarts}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.states()[-1] == "stopped"
    refused = "verifier-1 cannot be started again: the processes of ['verifier-1'] outlived SIGKILL"
    assert stage.alerts()[:4] == [
        f"{refused}; it is tried again in 0.3 s (restart 2 of 3)",
        f"{refused}; it is tried again in 0.3 s (restart 3 of 3)",
        f"{refused}; it is tried again in 0.3 s (it had 3 restarts within 600 s; the others go on)",
        f"{refused}; it is tried again in 0.3 s (it had 3 restarts within 600 s; the others go on)",
    ]
    assert stage.summary()["restarts"] == 2


def test_one_that_stands_alone_and_does_not_go_away_fails_the_run_once_its_restarts_are_spent(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        stage.launcher.stuck.add("learner-1")
        stage.launcher.end(RUN, "learner-0", -9)
        await eventually(lambda: stage.states()[-1] == "failed")

    resources = {"learner": {"ranks": 2}, "restarts": {"limit": 2, "longest_pause_s": 0.1}}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": resources})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    refused = "the learner cannot be started again: the processes of ['learner-1'] outlived SIGKILL"
    assert stage.alerts() == [f"{refused}; it is tried again in 0.1 s (restart 2 of 2)"]
    assert stage.summary()["message"].startswith(f"{refused}, after 2 restarts within 600 s\n")


def test_a_worker_that_is_never_heard_is_started_again_and_ends_the_run_at_last(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        await bus.registry.beat("generator", "generator-0", ttl_s=60)
        await bus.registry.beat("verifier", "verifier-0", ttl_s=60)
        await eventually(lambda: stage.states()[-1] == "failed")
        await bus.close()

    restarts = {"pause_s": 0.1, "start_s": 2.0, "limit": 2, "window_s": 2.0}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"restarts": restarts}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.launcher.restarted == [["learner-0"], ["learner-0"]]
    words, again = started_again(stage)
    assert words.startswith("learner-0 sent no heartbeat for 2 s after its start; learner-0 is started again at once")
    assert again.endswith("learner-0 is started again in 0.1 s (restart 2 of 2)")
    assert "after its start, after 2 restarts within 2 s\n" in stage.summary()["message"]
