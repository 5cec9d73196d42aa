import re

from hypothesis import given
from hypothesis import strategies as st

from dapo.pod import identify
from services.orchestrator.launch.kubernetes import names
from services.orchestrator.launch.kubernetes.reading import workers_in

run_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
WORKLOADS = ("generator", "evaluation-generator", "verifier", "learner")
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@given(run_ids, st.sampled_from(WORKLOADS), st.integers(0, 9999))
def test_every_name_and_label_is_one_that_the_api_server_takes(run_id: str, workload: str, index: int) -> None:
    name = names.object_name(run_id, workload)
    assert DNS_LABEL.fullmatch(names.base_name(run_id))
    assert DNS_LABEL.fullmatch(f"{name}-{index}"), "of a pod, and a label of it"
    assert len(f"{name}-0123456789") <= 63, "the label controller-revision-hash"
    assert len(f"{names.object_name(run_id, 'learner')}-rank-0-{index}-abcde") <= 63, "a pod of a JobSet"
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", names.run_label(run_id))


@given(run_ids, run_ids)
def test_two_runs_share_no_name(one: str, other: str) -> None:
    if one != other:
        assert names.base_name(one) != names.base_name(other)
        assert names.run_label(one) != names.run_label(other)


@given(run_ids, st.sampled_from(WORKLOADS), st.integers(0, 9999))
def test_a_pod_tells_its_worker(run_id: str, workload: str, index: int) -> None:
    labels = {names.WORKLOAD: workload}
    of_a_set = {"metadata": {"name": f"{names.object_name(run_id, workload)}-{index}", "labels": labels}}
    name = f"{names.object_name(run_id, workload)}-rank-0-{index}-abcde"
    of_a_job = {"metadata": {"name": name, "labels": {**labels, names.COMPLETION_INDEX: str(index)}}}
    annotated = {"metadata": {"name": name, "labels": labels, "annotations": {names.COMPLETION_INDEX: str(index)}}}
    for pod in (of_a_set, of_a_job, annotated):
        assert workers_in(pod) == [f"{workload}-{index}"]
    assert workers_in({"metadata": {"name": "other-0"}}) == []


@given(run_ids, st.integers(0, 999), st.integers(1, 64))
def test_a_pod_tells_its_workers_as_its_first_process_names_them(run_id: str, index: int, workers: int) -> None:
    name = f"{names.object_name(run_id, 'learner')}-{index}"
    metadata = {"name": name, "labels": {names.WORKLOAD: "learner"}, "annotations": {names.WORKERS: str(workers)}}
    told = identify({"DAPO_WORKLOAD": "learner", "DAPO_POD": name, "DAPO_POD_WORKERS": str(workers)})
    assert workers_in({"metadata": metadata}) == [one["DAPO_WORKER_ID"] for one in told]
