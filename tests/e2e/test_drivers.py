"""The life of a run on the real platform, over each face of the run service: REST, gRPC, the command, the client.

Over the command the engines are SGLang; over the others they are simulated ones, and all else is as ever: service,
Valkey, generators, verifiers, the learner.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from benchmarks.survival.platform import REAL, SIMULATED
from benchmarks.survival.runs import real, simulated
from dapo.client import RunClient
from tests.e2e.drivers.client import ClientDriver
from tests.e2e.drivers.command import CommandDriver
from tests.e2e.drivers.driver import Driver, Happening, Place
from tests.e2e.drivers.grpc_stubs import GrpcDriver
from tests.e2e.drivers.rest import RestDriver
from tests.support.orchestrator.run_service import TOKEN, Service
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(1800)

FOREVER = 100_000
MORE = 2
"""Steps of training behind the stop."""
_READY_S = 400.0
"""Until SGLang has loaded the model, on a machine that is busy."""


class Watch(Thread):
    """Collects the events of a run until it has ended."""

    def __init__(self, happenings: Iterator[Happening]) -> None:
        super().__init__(daemon=True)
        self.seen: list[Happening] = []
        self._happenings = happenings
        self._ended = False
        self.start()

    def run(self) -> None:
        self.seen.extend(self._happenings)
        self._ended = True

    def wait(self, timeout_s: float) -> None:
        """Until it has ended with the run, and as it should: what goes wrong ends the thread without that."""
        self.join(timeout_s)
        assert self._ended, f"the watch has not come to its end; the last it saw is {self.seen[-1:]}"

    def steps(self) -> list[int]:
        return [one.data["step"] for one in self.seen if one.kind == "step"]

    def states(self) -> list[str]:
        return [one.data["state"] for one in self.seen if one.kind == "state"]


@pytest.mark.parametrize(
    ("driver", "module"),
    [(RestDriver, SIMULATED), (GrpcDriver, SIMULATED), (ClientDriver, SIMULATED), (CommandDriver, REAL)],
)
def test_the_life_of_a_run(driver: type[Driver], module: str, toy: Path, tmp_path: Path) -> None:
    options = json.dumps({"step_s": 0.02, "mean_tokens": 16})
    service = Service(tmp_path, module=module, SIMULATOR_OPTIONS=options)
    try:
        place = Place(str(service.http.base_url), f"127.0.0.1:{service.ready['grpc_port']}", TOKEN)
        spec = (simulated if module == SIMULATED else real)(toy, FOREVER)
        spec["resources"]["generator"]["replicas"] = spec["resources"]["verifier"]["replicas"] = 1
        with RunClient(place.url, place.token) as looker:
            play(driver(place), spec, looker)
    finally:
        service.close()


def play(driver: Driver, spec: dict[str, Any], looker: RunClient) -> None:
    """`looker` sees by itself what has come of what the driver asks for."""
    run_id = driver.create(spec)
    watch = Watch(driver.watch(run_id))
    until(watch.steps, lambda steps: len(steps) >= 2, _READY_S)

    for number in (3, 1):
        driver.scale(run_id, number)
        wanted = {f"generator-{at}" for at in range(number)}
        until(lambda: serving(looker, run_id), lambda found: found == dict.fromkeys(wanted, True), _READY_S)  # noqa: B023
    scaled = len(watch.steps())
    until(watch.steps, lambda steps: len(steps) > scaled)

    explained = driver.why(run_id, "g0000000000")
    assert explained["state"] in ("trained", "filtered"), explained

    state, step = driver.stop(run_id)
    watch.wait(60)
    assert (state, watch.states()[-1], watch.steps()) == ("stopped", "stopped", list(range(1, step + 1)))

    driver.resume(run_id, [f"training.steps={step + MORE}"])
    again = Watch(driver.watch(run_id))
    again.wait(_READY_S)
    assert (again.states()[-1], looker.get(run_id)["state"]) == ("succeeded", "succeeded")
    assert again.seen[: len(watch.seen)] == watch.seen
    assert again.steps() == list(range(1, step + MORE + 1))
    assert len({one.id for one in again.seen}) == len(again.seen)

    folder = Path(driver.export(run_id))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() > 0


def serving(looker: RunClient, run_id: str) -> dict[str, bool]:
    """Whether each generator has the learner's weights."""
    return {one["id"]: one["version"] is not None for one in looker.pipeline(run_id)["generators"]}
