"""Each sink writes with its library what that library, or its server's side, reads back; and goes on behind an end."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from dapo.environment import SERVICE_KEYS
from dapo.spec.load import parse_spec
from dapo.spec.run import RunSpec
from services.orchestrator.tracking.sink import Sink, Told, TrackedRun
from services.orchestrator.tracking.sinks import wandb
from services.orchestrator.tracking.sinks.choice import make_sink
from tests.support.orchestrator.trackers import (
    collecting,
    mlflow_client,
    scalars,
    wandb_history,
    wandb_records,
    wandb_server,
)

RUN = "run-20260102-ab12"
KEY = "canary" + "0" * 34
"""As long as an API key."""


def make_spec(**tracking: Any) -> RunSpec:
    tree = {"model": {"path": "/m"}, "data": {"path": "/d.jsonl"}, "tracking": tracking}
    return parse_spec(json.dumps(tree))


def row(step: int, loss: float = 0.5) -> dict[str, Any]:
    return {"step": step, "loss": loss, "entropy": None, "fingerprint": "ab", "ledger": {"kept": 3, "filtered": 1}}


def evaluation(step: int, value: float = 0.25) -> dict[str, Any]:
    return {"set": "exam", "step": step, "avg_at_k": {"value": value, "low": 0.1, "high": 0.4}, "elapsed_s": 1.5}


def begin(run_dir: Path, spec: RunSpec, **told: Any) -> Sink:
    (part,) = spec.tracking.parts
    sink = make_sink(spec, part)
    sink.begin(TrackedRun(RUN, run_dir, spec), Told(**told))
    return sink


def test_tensorboard_reads_what_was_told_and_forgets_what_is_trained_again(tmp_path: Path) -> None:
    spec = make_spec(tensorboard=True)
    first = begin(tmp_path, spec)
    for step in range(1, 6):
        first.step(row(step, loss=float(step)), step - 1, None)
    first.evaluation(evaluation(2), 5)
    first.alert("a generator was lost")
    first.end("stopped", "on request")
    second = begin(tmp_path, spec, step=3)
    for step in range(4, 7):
        second.step(row(step, loss=10.0 * step), step + 2, None)
    second.end("succeeded", "")
    second.close()
    wanted = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
    assert scalars(tmp_path, "learner/loss") == wanted
    assert scalars(tmp_path, "ledger/kept") == [(step, 3.0) for step in range(1, 7)]
    assert scalars(tmp_path, "evaluation/exam/avg_at_k") == [(2, 0.25)]
    assert scalars(tmp_path, "learner/entropy") == []


def test_wandb_keeps_offline_one_run_over_two_starts(tmp_path: Path) -> None:
    spec = make_spec(wandb={"mode": "offline", "project": "math", "entity": "team"})
    first = begin(tmp_path, spec)
    first.step(row(1), 0, None)
    first.evaluation(evaluation(0), 1)
    first.alert("a generator was lost")
    first.step(row(2), 2, None)
    first.end("stopped", "on request")
    second = begin(tmp_path, spec, step=2, records=3)
    second.step(row(3), 3, None)
    second.end("failed", "the disk is full")
    for sink in (first, second):
        sink.close()
        assert sink._process.returncode == 0
    history = wandb_history(tmp_path)
    assert [(one["_step"], one["step"]) for one in history] == [("0", "1"), ("1", "0"), ("2", "2"), ("3", "3")]
    assert history[0]["learner/loss"] == "0.5"
    assert history[1]["evaluation/exam/avg_at_k"] == "0.25"
    records = wandb_records(tmp_path)
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.project, run.entity) for run in runs} == {(RUN, "math", "team")}
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["model"]["path"] == "/m"
    codes = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    assert codes == [0, 1]
    assert [record.alert.text for record in records if record.WhichOneof("record_type") == "alert"] == [
        "a generator was lost"
    ]


def histories(run_dir: Path) -> list[Any]:
    return [record for record in wandb_records(run_dir) if record.WhichOneof("record_type") == "history"]


def steps_of_wandb(run_dir: Path) -> list[int]:
    return [int(one["step"]) for one in wandb_history(run_dir)]


@pytest.mark.parametrize("killed", [False, True])
def test_wandb_has_what_it_was_told_though_its_process_was_ended(tmp_path: Path, killed: bool) -> None:
    """The library only queues what it is told."""
    spec = make_spec(wandb={"mode": "offline"})
    first = begin(tmp_path, spec)
    for step in range(1, 31):
        first.step(row(step), step - 1, None)
    if killed:
        os.killpg(first._process.pid, signal.SIGKILL)
    first.close()
    if not killed:
        assert steps_of_wandb(tmp_path) == list(range(1, 31))
    second = begin(tmp_path, spec, step=30, records=30)
    second.step(row(31), 30, None)
    second.end("succeeded", "")
    second.close()
    assert steps_of_wandb(tmp_path) == list(range(1, 32))
    before = len(histories(tmp_path))
    third = begin(tmp_path, spec, step=31, records=31)
    third.end("succeeded", "")
    third.close()
    assert len(histories(tmp_path)) == before  # what it has is not told again


@pytest.mark.parametrize("status", [503, 403])
def test_a_wandb_server_that_takes_nothing_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(wandb, "_FINISH_S", 3.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with wandb_server(RUN, status) as url:
        sink = begin(tmp_path, make_spec(wandb={"base_url": url}))
        sink.step(row(1), 0, None)
        with pytest.raises(RuntimeError, match="wandb sync"):
            sink.end("succeeded", "")
        sink.close()


def test_a_wandb_server_that_takes_all_is_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with wandb_server(RUN, 200) as url:
        sink = begin(tmp_path, make_spec(wandb={"base_url": url}))
        sink.step(row(1), 0, None)
        sink.end("succeeded", "")
        sink.close()


def test_mlflow_is_given_the_parameters_that_one_failed_request_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(mlflow={"tracking_uri": "file:mlruns"})
    real, asked = MlflowClient.log_batch, []

    def lose_the_first(self: MlflowClient, *arguments: Any, **options: Any) -> None:
        asked.append(options)
        if len(asked) == 1:
            raise ConnectionError("gone")
        real(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", lose_the_first)
    with pytest.raises(ConnectionError):
        begin(tmp_path, spec)
    begin(tmp_path, spec)
    client = mlflow_client(tmp_path)
    (experiment,) = client.search_experiments(filter_string="name = 'dapo'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["model.path"] == "/m"
    told = len(asked)
    begin(tmp_path, spec)
    assert len(asked) == told


def test_mlflow_goes_on_with_the_run_that_it_has(tmp_path: Path) -> None:
    spec = make_spec(mlflow={"tracking_uri": "file:mlruns", "experiment": "math"})
    first = begin(tmp_path, spec)
    first.step(row(1), 0, None)
    first.evaluation(evaluation(0), 1)
    first.end("stopped", "on request")
    second = begin(tmp_path, spec, step=1, records=2)
    second.step(row(2, loss=0.25), 2, None)
    second.alert("a generator was lost")
    client = mlflow_client(tmp_path)
    (experiment,) = client.search_experiments(filter_string="name = 'math'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (RUN, "RUNNING")
    second.end("failed", "the disk is full")
    run = client.get_run(run.info.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["dapo.message"] == "the disk is full"
    assert run.data.tags["dapo.alert"] == "a generator was lost"
    assert run.data.params["algorithm.preset"] == "dapo"
    history = client.get_metric_history(run.info.run_id, "learner/loss")
    assert [(one.step, one.value) for one in history] == [(1, 0.5), (2, 0.25)]
    (average,) = client.get_metric_history(run.info.run_id, "evaluation/exam/avg_at_k")
    assert (average.step, average.value) == (0, 0.25)


def test_a_collector_is_sent_its_headers_and_the_runs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret-of-otel")
    with collecting() as collector:
        sink = begin(tmp_path, make_spec(opentelemetry={"endpoint": collector.url}))
        sink.alert("a generator was lost")
        sink.evaluation(evaluation(2), 0)
        sink.end("failed", "the disk is full")
        names = [span.name for span in collector.spans()]
        assert names == ["alert", "evaluation", "end of run"]
        assert all(headers["x-key"] == "secret-of-otel" for headers in collector.headers)
        (resource,) = {str(request.resource_spans[0].resource) for request in collector.requests}
        assert RUN in resource
        assert "dapo" in resource
        shown = collector.spans()[1]
        assert shown.end_time_unix_nano - shown.start_time_unix_nano == 1_500_000_000


def test_a_collector_that_refuses_is_no_success(tmp_path: Path) -> None:
    with collecting(status=400) as collector:
        sink = begin(tmp_path, make_spec(opentelemetry={"endpoint": collector.url}))
        with pytest.raises(RuntimeError, match="has not taken a trace"):
            sink.alert("a generator was lost")


def test_a_wandb_server_that_is_gone_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the second try find the id taken by the first."""
    monkeypatch.setattr(wandb, "_BEGIN_S", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        spec = make_spec(wandb={"base_url": f"http://127.0.0.1:{refusing.getsockname()[1]}"})
        for _ in range(2):
            sink = make_sink(spec, "wandb")
            with pytest.raises(RuntimeError, match="CommError") as error:
                sink.begin(TrackedRun(RUN, tmp_path, spec), Told())
            sink.close()
            assert sink._process.returncode is not None
            assert KEY not in str(error.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_wandbs_process_has_no_key_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SERVICE_KEYS:
        monkeypatch.setenv(name, KEY)
    sink = begin(tmp_path, make_spec(wandb={"mode": "offline"}))
    process = psutil.Process(sink._process.pid)
    found = [one.environ() for one in (process, *process.children())]
    sink.close()
    assert len(found) == 2
    assert [set(SERVICE_KEYS) & set(one) for one in found] == [{"WANDB_API_KEY"}] * 2


def test_wandbs_process_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    sink = begin(tmp_path, make_spec(wandb={"mode": "offline"}))
    sink._process.kill()
    with pytest.raises((RuntimeError, BrokenPipeError)):
        sink.step(row(1), 0, None)
    sink.close()
