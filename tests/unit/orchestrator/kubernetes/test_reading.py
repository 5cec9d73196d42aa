"""Pods as API servers show them, and what is made of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.spec.tree.resources import RestartSpec
from services.orchestrator.launch.health import HealthAction, judge
from services.orchestrator.launch.kubernetes.reading import (
    Look,
    Trouble,
    is_being_made,
    newest,
    read_pod,
    what_keeps_it,
    workers_in,
)
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus
from tests.support.cluster.templates import make_templates

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = make_templates().settings


def at(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(*, age_s: float = 10.0, deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": "toy-12345678-generator-1", "uid": "u1", "creationTimestamp": at(age_s)}
    return {"metadata": {**metadata, **({"deletionTimestamp": at(0)} if deleted else {})}, "status": status}


def container(state: dict[str, Any], restarts: int = 0, last: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    beside = {"name": "exporter", "state": {"running": {}}, "restartCount": 9}
    worker = {"name": "worker", "state": state, "restartCount": restarts, "lastState": last or {}}
    return [beside, worker]


def read(one: dict[str, Any], since_s: dict[tuple[str, Trouble], float] | None = None, **look: Any) -> WorkerStatus:
    """With `since_s`, at second 1000 of a clock."""
    return read_pod(one, "generator-1", "generator", Look(SETTINGS, 1000.0, since_s or {}, **look))


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return pod(
        phase="Pending",
        containerStatuses=container({"waiting": {"reason": reason, "message": message}}),
        **more,
    )


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


SCHEDULED = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(300)}]
MAKING = pod(
    phase="Pending", conditions=SCHEDULED, containerStatuses=container({"waiting": {"reason": "PodInitializing"}})
)
INIT = [{"name": "fetch", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]


def gated(reason: str) -> list[dict[str, Any]]:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    return [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]


@pytest.mark.parametrize(
    ("one", "state", "code", "words"),
    [
        (pod(phase="Pending"), "starting", None, ""),
        (waiting("ContainerCreating"), "starting", None, ""),
        (pod(phase="Running", containerStatuses=container({"running": {}})), "running", None, ""),
        (pod(phase="Running", containerStatuses=container(ended(1))), "exited", 1, ""),
        (pod(phase="Running", containerStatuses=container(ended(0, "Completed"))), "exited", 0, ""),
        (pod(phase="Running", containerStatuses=container(ended(74))), "exited", 74, ""),
        (pod(phase="Running", containerStatuses=container(ended(137))), "exited", -9, ""),
        (pod(phase="Running", containerStatuses=container(ended(143))), "exited", -15, ""),
        # The kubelet has started the container again, in which nothing runs.
        (pod(phase="Running", containerStatuses=container({"running": {}}, 1, ended(3))), "exited", 3, ""),
        (pod(phase="Running", containerStatuses=container({"running": {}}, 1)), "exited", -9, ""),
        (
            pod(phase="Running", containerStatuses=container({"running": {}}, 1, ended(137, "OOMKilled"))),
            "failed",
            -9,
            "more memory than its container's limit",
        ),
        # It has pulled for long, and fails at it only since.
        (waiting("ErrImagePull", "not found", age_s=9000, conditions=SCHEDULED), "starting", None, "cannot be pulled"),
        # It has waited to be admitted for long, and for a node only since.
        (pod(phase="Pending", conditions=gated("Unschedulable"), age_s=9000), "starting", None, "Insufficient nvidia"),
        (MAKING, "starting", None, ""),
        (pod(phase="Pending", conditions=gated("SchedulingGated"), age_s=9000), "starting", None, "Kueue"),
        (pod(phase="Failed", reason="Evicted", message="low on resource: memory"), "failed", -9, "low on resource"),
        (pod(phase="Failed", reason="Preempting", message="critical pod"), "failed", -9, "higher priority"),
        (pod(phase="Failed", reason="NodeLost", message="gone"), "failed", -9, "does not answer"),
        (pod(phase="Failed", reason="OutOfcpu", message="no cpu"), "failed", -9, "no room for it after all"),
        (pod(phase="Failed", containerStatuses=container(ended(2))), "exited", 2, ""),
        (pod(phase="Running", deleted=True, containerStatuses=container({"running": {}})), "running", None, ""),
        (
            pod(
                phase="Running",
                deleted=True,
                containerStatuses=container(ended(0, "Completed")),
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}],
            ),
            "failed",
            -15,
            "higher priority",
        ),
        (pod(phase="Running", deleted=True, containerStatuses=container(ended(0))), "failed", -15, "drained"),
        (
            pod(phase="Running", containerStatuses=container(ended(128, "StartError", 'exec: "python": not found'))),
            "failed",
            None,
            "not found",
        ),
    ],
)
def test_what_a_pod_says_of_its_worker(one: dict[str, Any], state: str, code: int | None, words: str) -> None:
    found = read(one)
    assert (found.state, found.code, found.instance) == (state, code, "u1")
    assert words in found.reason
    if words == "":
        assert found.reason == ""


def shared(**status: Any) -> dict[str, Any]:
    """The second pod of a learner with two ranks in each."""
    metadata = {"annotations": {"dapo.dev/workers": "2"}, "labels": {"dapo.dev/workload": "learner"}}
    one = pod(phase="Running", **status)
    return {**one, "metadata": {**one["metadata"], **metadata}}


def ranks(one: dict[str, Any]) -> dict[str, tuple[str, int | None]]:
    look = Look(SETTINGS, 1000.0)
    found = [read_pod(one, worker, "learner", look) for worker in workers_in(one)]
    assert {status.instance for status in found} == {"u1"}
    return {status.worker_id: (status.state.value, status.code) for status in found}


@pytest.mark.parametrize(
    ("status", "second", "third"),
    [
        ({"containerStatuses": container({"running": {}})}, ("running", None), ("running", None)),
        # The one that failed is judged; the other was ended for its sake.
        (
            {"containerStatuses": container(ended(1, message='{"learner-3": 1}'))},
            ("starting", None),
            ("exited", 1),
        ),
        (
            {"containerStatuses": container({"running": {}}, 1, ended(137, message='{"learner-2": 137}'))},
            ("exited", -9),
            ("starting", None),
        ),
        (
            {"containerStatuses": container(ended(1, message='{"learner-2": 0, "learner-3": 1}'))},
            ("exited", 0),
            ("exited", 1),
        ),
        (
            {"containerStatuses": container(ended(0, "Completed", '{"learner-2": 0, "learner-3": 0}'))},
            ("exited", 0),
            ("exited", 0),
        ),
        # What it says of neither is what its container says of both.
        ({"containerStatuses": container(ended(137))}, ("exited", -9), ("exited", -9)),
        ({"containerStatuses": container(ended(3, message="other words"))}, ("exited", 3), ("exited", 3)),
        (
            {"containerStatuses": container(ended(137, "OOMKilled", '{"learner-2": 137}'))},
            ("failed", -9),
            ("failed", -9),
        ),
        ({"deleted": True, "containerStatuses": container(ended(143))}, ("failed", -15), ("failed", -15)),
    ],
)
def test_a_pod_of_two_ranks_tells_of_each(
    status: dict[str, Any], second: tuple[str, int | None], third: tuple[str, int | None]
) -> None:
    assert ranks(shared(**status)) == {"learner-2": second, "learner-3": third}


def test_the_rank_that_failed_decides_what_becomes_of_a_run() -> None:
    one = shared(containerStatuses=container(ended(1, message='{"learner-3": 1}')))
    statuses = [read_pod(one, worker, "learner", Look(SETTINGS, 1000.0)) for worker in workers_in(one)]
    for proven, action in ((False, HealthAction.FAIL), (True, HealthAction.RESTART)):
        judged = judge(statuses, {}, {}, may_end=(), proven=proven, spec=RestartSpec())
        assert [found.action for found in judged] == [HealthAction.EXPECTED, action]
        assert [found.reason for found in judged] == ["", "learner-3 exited with code 1"]


def test_a_message_of_a_pod_with_one_worker_is_none_of_ours() -> None:
    found = read(pod(phase="Running", containerStatuses=container(ended(3, message='{"generator-1": 7}'))))
    assert (found.state, found.code) == (WorkerState.EXITED, 3)


@pytest.mark.parametrize(
    ("one", "trouble", "bound_s", "words"),
    [
        (waiting("ImagePullBackOff", "b", conditions=SCHEDULED), "image", 120, "imagePullSecrets"),
        (waiting("CreateContainerConfigError", 'secret "x"', conditions=SCHEDULED), "image", 120, 'secret "x"'),
        (pod(phase="Pending", conditions=SCHEDULED, initContainerStatuses=INIT), "image", 120, "init container fetch"),
        (pod(phase="Pending", conditions=gated("Unschedulable")), "node", 1800, "no node takes it"),
        (MAKING, "kept", 1800, "its volumes cannot be mounted"),
    ],
)
def test_a_trouble_has_a_bound_from_when_it_was_first_seen(
    one: dict[str, Any], trouble: Trouble, bound_s: float, words: str
) -> None:
    told = {"u1": what_keeps_it([event("FailedMount", "Warning", 5)])}
    for passed_s, state in ((0, "starting"), (bound_s - 1, "starting"), (bound_s, "failed")):
        found = read(one, {("u1", trouble): 1000.0 - passed_s}, told=told)
        assert found.state == state
        assert words in found.reason
    since_s: dict[tuple[str, Trouble], float] = {("u0", trouble): 0.0}
    read(one, since_s, told=told)
    assert since_s["u1", trouble] == 1000.0


def event(reason: str, kind: str, seconds_ago: float, **fields: Any) -> dict[str, Any]:
    metadata = {"creationTimestamp": at(seconds_ago)}
    return {"metadata": metadata, "type": kind, "reason": reason, "message": f"of {reason}", **fields}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], ""),
        ([event("Scheduled", "Normal", 90), event("Pulling", "Normal", 80)], ""),
        ([event("FailedScheduling", "Warning", 200), event("Scheduled", "Normal", 90)], ""),
        ([event("Scheduled", "Normal", 90), event("FailedMount", "Warning", 90)], "volumes cannot be mounted (of Fa"),
        ([event("FailedAttachVolume", "Warning", 500, lastTimestamp=at(9)), event("Scheduled", "Normal", 90)], "claim"),
        # It was mounted after all.
        ([event("FailedMount", "Warning", 90), event("Pulling", "Normal", 30)], ""),
        ([event("FailedCreatePodSandBox", "Warning", 9)], "its node cannot make it (FailedCreatePodSandBox: of"),
    ],
)
def test_what_keeps_a_node_from_making_a_pod(events: list[dict[str, Any]], words: str) -> None:
    assert bool(what_keeps_it(events)) == bool(words)
    assert words in what_keeps_it(events)


def test_which_pods_are_being_made() -> None:
    assert is_being_made(MAKING)
    assert is_being_made(pod(phase="Pending", conditions=SCHEDULED))
    for other in (
        pod(phase="Pending"),
        pod(phase="Pending", conditions=gated("Unschedulable")),
        pod(phase="Pending", conditions=SCHEDULED, deleted=True),
        waiting("ErrImagePull", conditions=SCHEDULED),
        pod(phase="Running", conditions=SCHEDULED, containerStatuses=container({"running": {}})),
        pod(phase="Running", conditions=SCHEDULED, containerStatuses=container(ended(1))),
    ):
        assert not is_being_made(other)


@pytest.mark.parametrize(
    ("one", "before_weights", "later"),
    [
        (pod(phase="Failed", reason="Evicted"), HealthAction.RESTART, HealthAction.RESTART),
        (pod(phase="Running", deleted=True, containerStatuses=container(ended(0))), HealthAction.RESTART, "restart"),
        (waiting("ImagePullBackOff", conditions=SCHEDULED), HealthAction.FAIL, HealthAction.RESTART),
        (pod(phase="Running", containerStatuses=container({"running": {}}, 1, ended(1))), HealthAction.FAIL, "restart"),
        (pod(phase="Pending", conditions=gated("Unschedulable")), HealthAction.EXPECTED, HealthAction.EXPECTED),
    ],
)
def test_what_is_done_about_it(one: dict[str, Any], before_weights: str, later: str) -> None:
    """A node that goes is an ordinary restart at any time; a spec or an image that does not work ends the run."""
    for proven, action in ((False, before_weights), (True, later)):
        (judged,) = judge([read(one, {("u1", "image"): 700.0})], {}, {}, may_end=(), proven=proven, spec=RestartSpec())
        assert judged.action == action
        assert judged.reason


def test_of_two_pods_of_a_worker_the_later_counts() -> None:
    old, new = pod(age_s=100, phase="Failed"), pod(age_s=1, phase="Running")
    assert newest([new, old]) is new
    assert newest([old, new]) is new


texts = (
    st.none() | st.text(max_size=20) | st.sampled_from(["Evicted", "OOMKilled", "ImagePullBackOff", "Unschedulable"])
)
messages = st.sampled_from(['{"generator-1": 1}', '{"generator-0": 0}', '{"generator-0": 137, "generator-1": 0}'])
states = st.fixed_dictionaries(
    {},
    optional={
        "running": st.just({}),
        "waiting": st.fixed_dictionaries({}, optional={"reason": texts, "message": texts}),
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(0, 255)}, optional={"reason": texts, "message": texts | messages}
        ),
    },
)
statuses = st.fixed_dictionaries(
    {"name": st.sampled_from(["worker", "other"])},
    optional={"state": states, "lastState": states, "restartCount": st.integers(0, 5)},
)
conditions = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["PodScheduled", "DisruptionTarget", "Ready"]),
        "status": st.sampled_from(["True", "False"]),
    },
    optional={"reason": texts, "message": texts, "lastTransitionTime": st.just(at(50))},
)
pod_statuses = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
        "reason": texts,
        "message": texts,
        "conditions": st.none() | st.lists(conditions),
        "containerStatuses": st.none() | st.lists(statuses),
        "initContainerStatuses": st.none() | st.lists(statuses),
    },
)


@given(pod_statuses, st.booleans(), st.floats(0, 1e6), st.sampled_from([None, "", "1", "2", "two"]))
def test_any_pod_has_a_state_and_a_failed_one_a_reason(
    status: dict[str, Any], deleted: bool, age_s: float, workers: str | None
) -> None:
    one = pod(age_s=age_s, deleted=deleted)
    one["metadata"]["annotations"] = None if workers is None else {"dapo.dev/workers": workers}
    found = read({**one, "status": status})
    assert found.instance == "u1"
    assert (found.state == WorkerState.FAILED) <= bool(found.reason)
    assert (found.state == WorkerState.EXITED) == (found.code is not None and found.state != WorkerState.FAILED)
