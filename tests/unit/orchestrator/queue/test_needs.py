"""What a run needs of a machine, and which it could never start on."""

from pathlib import Path

import pytest

from dapo.spec.budget import payload_budget
from dapo.spec.run import RunSpec
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.queue.machine import Machine
from services.orchestrator.queue.needs import WORKER_BYTES, misfits, needs_of
from tests.support.spec import spec

RESOURCES = {
    "generator": {"replicas": 2, "tensor_parallel": 2},
    "learner": {"ranks": 2},
    "verifier": {"replicas": 3},
}


def test_a_run_takes_gpus_of_its_engines_and_ranks_and_a_core_for_each_worker() -> None:
    made = spec(resources=RESOURCES)
    needs = needs_of(made, gpus=8)
    assert (needs.gpus, needs.cores) == (2 * 2 + 2, 2 + 2 + 3)
    workers = 2 * WORKER_BYTES["generator"] + 2 * WORKER_BYTES["learner"] + 3 * WORKER_BYTES["verifier"]
    assert needs.memory == payload_budget(made).needed + workers
    # One that wants more GPUs than there are makes do with all of them.
    assert [needs_of(made, gpus).gpus for gpus in (0, 1, 5, 6)] == [0, 1, 5, 6]


@pytest.mark.parametrize(
    ("fields", "gpus", "problems"),
    [
        ({}, 0, []),
        ({"resources": RESOURCES}, 2, []),
        ({"resources": RESOURCES}, 1, ["resources.generator.tensor_parallel = 2", "resources.learner.ranks = 2"]),
        ({"resources": RESOURCES}, 0, ["resources.generator.tensor_parallel = 2"]),
        (
            {"resources__generator__device": "cuda", "resources__learner__device": "cuda"},
            0,
            ["resources.generator.device = cuda", "resources.learner.device = cuda"],
        ),
        ({"resources__generator__device": "cuda", "resources__learner__device": "cuda"}, 1, []),
        ({"resources__learner": {"device": "cpu", "ranks": 4}}, 1, []),
    ],
)
def test_what_could_never_start_names_the_field_and_what_there_is(fields: dict, gpus: int, problems: list[str]) -> None:
    found = [str(problem) for problem in misfits(spec(**fields), gpus)]
    assert [one.partition(":")[0] for one in found] == problems
    assert all(f"this machine has {gpus or 'no'} GPU" in one for one in found)


def with_generators(count: int, **fields: object) -> RunSpec:
    return spec(resources={"generator": {"replicas": count, "tensor_parallel": 2}, "learner": {"ranks": 2}}, **fields)


def test_a_run_that_goes_on_grows_into_what_is_free(tmp_path: Path) -> None:
    devices = DeviceAllocator([str(device) for device in range(8)], tmp_path)
    machine = Machine(devices)
    runs = with_generators(2)
    machine.reserve("r", runs)
    assert machine.room("a", runs, with_generators(3), [runs]) == ""
    # A run that starts would make do with 8 GPUs, and its engines share them.
    assert machine.room("a", runs, with_generators(4), [runs]) == "needs 10 GPUs, and this machine has 8"
    machine.reserve("other", spec(resources={"generator": {"replicas": 1}, "learner": {"ranks": 1}}))
    assert machine.room("a", runs, with_generators(3), [runs]) == "needs 2 GPUs, 0 free of 8"
    assert machine.room("a", with_generators(3), runs, [with_generators(3)]) == ""


def test_a_run_grows_within_cores_and_memory_too_and_is_no_further_run(tmp_path: Path) -> None:
    runs = with_generators(2)
    cores = needs_of(runs, 0).cores
    full = Machine(DeviceAllocator((), tmp_path), runs=1, cores=cores, memory=2**50)
    assert full.room("a", runs, with_generators(3), [runs]) == f"needs 1 core, 0 free of {cores}"
    more = Machine(DeviceAllocator((), tmp_path), runs=1, cores=cores + 1, memory=2**50)
    assert more.room("a", runs, with_generators(3), [runs]) == ""
    tight = Machine(DeviceAllocator((), tmp_path), memory=needs_of(runs, 0).memory)
    assert "needs 1.5 GiB of memory, 0 bytes free" in tight.room("a", runs, with_generators(3), [runs])
    # By the estimate it did not fit before either, and runs.
    less = Machine(DeviceAllocator((), tmp_path), memory=needs_of(runs, 0).memory - 1)
    assert less.room("a", runs, with_generators(3), [runs]) == ""
