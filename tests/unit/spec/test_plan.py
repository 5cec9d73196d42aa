"""The plan of processes that the launcher starts and --dry-run prints."""

from pathlib import Path

import pytest

from dapo.host.devices import visible_cuda_devices
from dapo.spec import RunSpec, load_spec
from dapo.spec.plan import ProcessPlan, describe_plan, format_plan, plan_processes, weight_backend
from tests.support.paths import REPO
from tests.support.spec import spec

EXAMPLES = REPO / "examples"


def plan(of: RunSpec, cuda: tuple[str, ...] = (), payload_url: str | None = None) -> dict[str, ProcessPlan]:
    processes = plan_processes(
        of,
        run_id="r-1",
        run_dir=Path("/runs/r-1"),
        redis_url="redis://u:secret@127.0.0.1:7000",
        payload_url=payload_url,
        master_port=29500,
        cuda_devices=cuda,
    )
    assert len({process.worker_id for process in processes}) == len(processes)
    return {process.worker_id: process for process in processes}


def test_one_of_each_by_default() -> None:
    processes = plan(spec())
    assert {name: process.module for name, process in processes.items()} == {
        "generator-0": "services.generator",
        "verifier-0": "services.verifier",
        "learner-0": "services.learner",
    }


def test_every_process_knows_its_run() -> None:
    for name, process in plan(spec()).items():
        assert process.env["DAPO_RUN_ID"] == "r-1"
        assert process.env["DAPO_RUN_DIR"] == "/runs/r-1"
        assert process.env["DAPO_REDIS_URL"] == "redis://u:secret@127.0.0.1:7000"
        assert process.env["DAPO_WORKER_ID"] == name == f"{process.role}-{name.rpartition('-')[2]}"
        assert "DAPO_PAYLOAD_URL" not in process.env
    assert all(p.env["DAPO_PAYLOAD_URL"] == "redis://p" for p in plan(spec(), payload_url="redis://p").values())


def test_replicas_and_ranks() -> None:
    processes = plan(
        spec(resources={"generator": {"replicas": 2}, "verifier": {"replicas": 3}, "learner": {"ranks": 2}})
    )
    assert [process.role for process in processes.values()] == ["generator"] * 2 + ["verifier"] * 3 + ["learner"] * 2
    for rank in range(2):
        env = processes[f"learner-{rank}"].env
        assert (env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) == (str(rank), str(rank), "2")
        assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("127.0.0.1", "29500")
    assert not {"RANK", "MASTER_PORT"} & set(processes["generator-0"].env)


def test_weights_travel_by_nccl_only_between_gpus_that_nobody_shares() -> None:
    on_gpus = spec(resources={"generator": {"tensor_parallel": 2}})
    assert weight_backend(on_gpus, ("0", "1", "2")) == "nccl"
    assert weight_backend(on_gpus, ("0", "1")) == "gloo"
    assert weight_backend(on_gpus, ()) == "gloo"
    assert weight_backend(spec(resources={"learner": {"device": "cpu"}}), ("0", "1")) == "gloo"
    assert weight_backend(spec(weight_sync={"backend": "nccl"}), ()) == "nccl"
    assert plan(on_gpus, ("0", "1", "2"))["learner-0"].env["DAPO_WEIGHT_BACKEND"] == "nccl"


def test_hub_is_offline_for_local_models_only() -> None:
    assert all(process.env["HF_HUB_OFFLINE"] == "1" for process in plan(spec()).values())
    assert not any("HF_HUB_OFFLINE" in process.env for process in plan(spec(model__path="Qwen/Qwen2.5-32B")).values())


def test_cpu_processes_get_one_thread_and_see_no_gpu() -> None:
    for process in plan(spec()).values():
        assert process.env["OMP_NUM_THREADS"] == "1"
    on_cpu = plan(spec(resources__learner__device="cpu"), cuda=("0", "1"))
    assert on_cpu["learner-0"].env["CUDA_VISIBLE_DEVICES"] == ""
    assert on_cpu["generator-0"].env["CUDA_VISIBLE_DEVICES"] == "0"
    assert "OMP_NUM_THREADS" not in on_cpu["generator-0"].env


def test_gpus_are_shared_out_without_overlap() -> None:
    resources = {"generator": {"replicas": 2, "tensor_parallel": 2}, "learner": {"ranks": 2}}
    processes = plan(spec(resources=resources), cuda=("a", "b", "c", "d", "e", "f", "g"))
    assert processes["learner-0"].env["CUDA_VISIBLE_DEVICES"] == "a,b"
    assert processes["learner-1"].env["CUDA_VISIBLE_DEVICES"] == "a,b"
    assert processes["generator-0"].env["CUDA_VISIBLE_DEVICES"] == "c,d"
    assert processes["generator-1"].env["CUDA_VISIBLE_DEVICES"] == "e,f"


def test_too_few_gpus_are_left_to_all() -> None:
    processes = plan(spec(), cuda=("0",))
    assert "CUDA_VISIBLE_DEVICES" not in processes["learner-0"].env
    assert "CUDA_VISIBLE_DEVICES" not in processes["generator-0"].env


@pytest.mark.parametrize(
    ("allowed", "devices"), [("", ()), ("-1", ()), ("0", ("0",)), ("2, 3", ("2", "3")), ("GPU-ab,1", ("GPU-ab", "1"))]
)
def test_visible_devices_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch, allowed: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert visible_cuda_devices() == devices


def test_description_shows_the_arithmetic_of_the_paper() -> None:
    paper = load_spec(EXAMPLES / "qwen2.5-32b-dapo.yaml")
    text = format_plan(describe_plan(paper, list(plan(paper).values())))
    assert "512 prompts × 16 samples = 8192 responses a step, in 16 updates of 512 responses" in text
    assert "8 × generator" in text
    assert "learner-0 … learner-31" in text
    assert "at most 1 version after it was issued" in text
    assert "preset dapo\n" in text
    assert "= 114688 bytes" in text


def test_description_names_what_differs_from_the_preset() -> None:
    changed = spec(algorithm__preset="grpo", algorithm__clip_high=0.28, asynchrony__max_staleness=0)
    text = format_plan(describe_plan(changed, list(plan(changed).values())))
    assert "preset grpo with clip_high = 0.28" in text
    assert "synchronous" in text


def test_description_hides_passwords() -> None:
    external = spec(resources__redis__url="redis://u:secret@h:1", resources__redis__payload_url="redis://:secret@p:1")
    text = format_plan(describe_plan(external, list(plan(external).values())))
    assert "redis://***@h:1" in text
    assert "secret" not in text


def test_headings_stand_once_each() -> None:
    lines = format_plan(describe_plan(spec(), list(plan(spec()).values()))).splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == ["Processes", "Learning", "Redis payloads"]


def test_warnings_come_last() -> None:
    doubtful = spec(algorithm__clip_low=0.3)
    rows = describe_plan(doubtful, list(plan(doubtful).values()))
    assert (rows[-1].section, rows[-1].label) == ("Warnings", "algorithm.clip_low")


def test_the_plan_names_every_source_with_its_weight() -> None:
    sources = {"math": {"path": "/d/m.parquet"}, "code": {"path": "some/hub", "weight": 0.5}}
    of = spec(data={"sources": sources})
    rows = describe_plan(of, list(plan(of).values()))
    assert [row.text for row in rows if row.label == "data"] == ["math × 1 (/d/m.parquet), code × 0.5 (some/hub)"]
