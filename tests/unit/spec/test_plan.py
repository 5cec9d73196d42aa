"""The workloads that a launcher places, and what --dry-run says of them."""

from dapo.spec import RunSpec, load_spec
from dapo.spec.preview import format_preview, preview
from dapo.spec.workloads import Workload, plan_workloads
from tests.support.paths import REPO
from tests.support.spec import spec

EXAMPLES = REPO / "examples"


def plan(of: RunSpec) -> dict[str, Workload]:
    workloads = plan_workloads(of)
    workers = [worker for workload in workloads for worker in workload.worker_ids]
    assert len(set(workers)) == len(workers)
    return {workload.name: workload for workload in workloads}


def test_one_of_each_by_default() -> None:
    workloads = plan(spec())
    assert {name: workload.module for name, workload in workloads.items()} == {
        "generator": "services.generator",
        "verifier": "services.verifier",
        "learner": "services.learner",
    }
    assert all(workload.worker_ids == [f"{name}-0"] for name, workload in workloads.items())


def test_replicas_and_ranks() -> None:
    resources = {"generator": {"replicas": 2}, "verifier": {"replicas": 3}, "learner": {"ranks": 2}}
    workloads = plan(spec(resources=resources))
    assert [(one.role, one.replicas) for one in workloads.values()] == [
        ("generator", 2),
        ("verifier", 3),
        ("learner", 2),
    ]
    assert workloads["learner"].worker_ids == ["learner-0", "learner-1"]


def test_gpus_that_a_replica_uses() -> None:
    workloads = plan(spec(resources={"generator": {"tensor_parallel": 2}, "learner": {"ranks": 4}}))
    assert {name: one.resources.gpus for name, one in workloads.items()} == {
        "generator": 2,
        "verifier": 0,
        "learner": 1,
    }
    on_cpu = plan(spec(resources={"generator": {"device": "cpu"}, "learner": {"device": "cpu"}}))
    assert [(one.resources.device, one.resources.gpus) for one in on_cpu.values()] == [("cpu", 0)] * 3


def test_hub_is_offline_for_local_models_only() -> None:
    assert all(workload.environment["HF_HUB_OFFLINE"] == "1" for workload in plan(spec()).values())
    hub = plan(spec(model__path="Qwen/Qwen2.5-32B"))
    assert not any("HF_HUB_OFFLINE" in workload.environment for workload in hub.values())


def test_a_plan_holds_no_fact_about_a_host() -> None:
    """Of a run on several nodes: no address, port, device or path, but for what the spec itself names."""
    several = spec(resources={"generator": {"replicas": 2, "tensor_parallel": 2}, "learner": {"ranks": 4}})
    text = repr(plan_workloads(several))
    for fact in ("127.0.0.1", "localhost", "::1", str(REPO), "/tmp", "CUDA_VISIBLE_DEVICES", "MASTER", "PORT", "URL"):
        assert fact not in text


def test_description_shows_the_arithmetic_of_the_paper() -> None:
    paper = load_spec(EXAMPLES / "qwen2.5-32b-dapo.yaml")
    text = format_preview(preview(paper))
    assert "512 prompts × 16 samples = 8192 responses a step, in 16 updates of 512 responses" in text
    assert "8 × generator" in text
    assert "learner-0 … learner-31" in text
    assert "at most 1 version after it was issued" in text
    assert "preset dapo\n" in text
    assert "= 114688 bytes" in text


def test_description_names_what_differs_from_the_preset() -> None:
    changed = spec(algorithm__preset="grpo", algorithm__clip_high=0.28, asynchrony__max_staleness=0)
    text = format_preview(preview(changed))
    assert "preset grpo with clip_high = 0.28" in text
    assert "synchronous" in text


def test_description_hides_passwords() -> None:
    external = spec(resources__redis__url="redis://u:secret@h:1", resources__redis__payload_url="redis://:secret@p:1")
    text = format_preview(preview(external))
    assert "redis://***@h:1" in text
    assert "secret" not in text


def test_headings_stand_once_each() -> None:
    lines = format_preview(preview(spec())).splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == ["Processes", "Learning", "Redis payloads"]


def test_warnings_come_last() -> None:
    doubtful = spec(algorithm__clip_low=0.3)
    rows = preview(doubtful)
    assert (rows[-1].section, rows[-1].label) == ("Warnings", "algorithm.clip_low")


def test_the_plan_names_every_source_with_its_weight() -> None:
    sources = {"math": {"path": "/d/m.parquet"}, "code": {"path": "some/hub", "weight": 0.5}}
    of = spec(data={"sources": sources})
    rows = preview(of)
    assert [row.text for row in rows if row.label == "data"] == ["math × 1 (/d/m.parquet), code × 0.5 (some/hub)"]
