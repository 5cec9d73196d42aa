"""What is read of a run over gRPC is what REST answers; deadlines and cancellations end the work."""

import json
import math
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
import pytest

from dapo.client import RefusedRequest, RunClient
from dapo.v1 import run_pb2 as pb
from dapo.v1 import run_pb2_grpc
from tests.support.orchestrator.run_service import METADATA, TOKEN, Service, create

PROBLEM = "dapo-problem-bin"
T = TypeVar("T")


@pytest.fixture
def stub(channel) -> run_pb2_grpc.RunServiceStub:
    return run_pb2_grpc.RunServiceStub(channel)


def refused(call, request) -> tuple[grpc.StatusCode, dict]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, metadata=METADATA)
    return caught.value.code(), json.loads(dict(caught.value.trailing_metadata())[PROBLEM])


def test_both_faces_read_the_same_of_a_run(service, recorded, stub) -> None:
    def rest(path: str, **query: object) -> dict:
        return service.http.get(f"{recorded}/{path}", params=query).json()

    metrics = stub.GetMetrics(pb.GetMetricsRequest(id="recorded", since_step=1), metadata=METADATA)
    found = rest("metrics", since_step=1)
    assert (list(metrics.steps), metrics.last_step) == (found["step"], found["last_step"])
    assert {
        name: [None if math.isnan(value) else value for value in column.values]
        for name, column in metrics.columns.items()
    } == found["columns"]
    assert {name: column.unit for name, column in metrics.columns.items()} == found["units"]

    part = stub.GetMetrics(pb.GetMetricsRequest(id="recorded", since_step=1, until_step=3), metadata=METADATA)
    assert rest("metrics", since_step=1, until_step=3)["step"] == list(part.steps) == [2, 3]
    assert rest("metrics", until_step=3)["last_step"] == part.last_step == metrics.last_step

    pipeline = stub.GetPipeline(pb.GetPipelineRequest(id="recorded"), metadata=METADATA)
    assert json.loads(pipeline.data) == rest("pipeline")
    assert (pipeline.live, dict(pipeline.groups), pipeline.slowest) == (False, {"trained": 40}, "training")
    assert not pipeline.HasField("version")

    wanted = pb.ListSamplesRequest(id="recorded", limit=2, verdict=pb.VERDICT_CORRECT)
    samples = stub.ListSamples(wanted, metadata=METADATA)
    page = rest("samples", limit=2, verdict="correct")
    assert [json.loads(one.data) for one in samples.samples] == page["samples"]
    assert samples.cursor == page["cursor"]
    wanted.cursor = samples.cursor
    assert stub.ListSamples(wanted, metadata=METADATA).samples[0].step < samples.samples[-1].step
    of_a_step = stub.ListSamples(pb.ListSamplesRequest(id="recorded", step=0), metadata=METADATA)
    assert [one.step for one in of_a_step.samples] == [0]

    (evaluation,) = stub.ListEvaluations(pb.ListEvaluationsRequest(id="recorded"), metadata=METADATA).evaluations
    assert [json.loads(evaluation.data)] == rest("evaluations")["evaluations"]
    assert (evaluation.step, evaluation.set) == (5, "aime")
    assert list(stub.ListGroups(pb.ListGroupsRequest(id="recorded"), metadata=METADATA).groups) == []
    assert stub.GetSpec(pb.GetSpecRequest(id="recorded"), metadata=METADATA).yaml == rest("spec")["yaml"]
    identity = stub.WhoAmI(pb.WhoAmIRequest(), metadata=METADATA)
    assert {"name": identity.name, "scope": identity.scope} == service.http.get("/v1/whoami").json()


def test_what_is_wrong_is_refused_as_over_rest(recorded, stub) -> None:
    for call, request, field in (
        (stub.GetMetrics, pb.GetMetricsRequest(id="recorded", names=["accuracy"]), "names"),
        (stub.GetMetrics, pb.GetMetricsRequest(id="recorded", points=20_001), "points"),
        (stub.ListSamples, pb.ListSamplesRequest(id="recorded", limit=201), "limit"),
        (stub.ListSamples, pb.ListSamplesRequest(id="recorded", cursor="x"), "cursor"),
        (stub.ListSamples, pb.ListSamplesRequest(id="recorded", verdict=7), "verdict"),
        (stub.ListGroups, pb.ListGroupsRequest(id="recorded", states=["lost"]), "state"),
        (stub.ListGroups, pb.ListGroupsRequest(id="recorded", limit=1001), "limit"),
    ):
        code, problem = refused(call, request)
        assert (code, problem["type"]) == (grpc.StatusCode.INVALID_ARGUMENT, "urn:dapo:problem:invalid_request")
        assert [one["field"] for one in problem["problems"]] == [field]
    for call, request in (
        (stub.GetMetrics, pb.GetMetricsRequest(id="none")),
        (stub.GetPipeline, pb.GetPipelineRequest(id="none")),
        (stub.ListSamples, pb.ListSamplesRequest(id="none")),
        (stub.ListEvaluations, pb.ListEvaluationsRequest(id="none")),
        (stub.ListGroups, pb.ListGroupsRequest(id="none")),
        (stub.GetSpec, pb.GetSpecRequest(id="none")),
    ):
        assert refused(call, request)[0] is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        stub.WhoAmI(pb.WhoAmIRequest())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def once_free(call: Callable[[], T]) -> T:
    """The service hears a moment later that a caller has left."""
    for _ in range(200):
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        except RefusedRequest as error:
            if error.status != 429:
                raise
        time.sleep(0.05)
    raise AssertionError("the place is not left")


def test_a_stream_ends_at_its_deadline_and_when_it_is_cancelled_and_leaves_its_place(tmp_path, spec) -> None:
    service = Service(tmp_path, "--streams", "2", module="tests.support.orchestrator.fake_service")
    address = f"127.0.0.1:{service.ready['grpc_port']}"
    try:
        run_id = create(service, spec)["id"]
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = run_pb2_grpc.RunServiceStub(channel)
            # One caller may have one: each of these has the place that the one before has left.
            request = pb.WatchRunRequest(id=run_id)
            for _ in range(3):
                with pytest.raises(grpc.RpcError) as caught:
                    once_free(lambda: list(stub.WatchRun(request, metadata=METADATA, timeout=1.0)))
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

            def watch() -> grpc.Call:
                watching = stub.WatchRun(request, metadata=METADATA)
                next(watching)
                return watching

            for _ in range(3):
                watching = once_free(watch)
                watching.cancel()
                with pytest.raises(grpc.RpcError) as caught:
                    list(watching)
                assert caught.value.code() is grpc.StatusCode.CANCELLED
            # Of a run that goes on, what there is: the call ends by itself.
            known = pb.WatchRunRequest(id=run_id, follow=False)
            events = once_free(lambda: list(stub.WatchRun(known, metadata=METADATA, timeout=30.0)))
            told = [event.id for event in events]
            assert told
            with RunClient(str(service.http.base_url), TOKEN) as client:
                seen = [event.id for event in once_free(lambda: list(client.events(run_id, follow=False)))]
                assert seen[: len(told)] == told
        assert "Traceback" not in service.log.read_text()
    finally:
        service.close()
