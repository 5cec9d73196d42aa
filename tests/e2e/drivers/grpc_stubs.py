"""Over gRPC, with the generated stubs."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from dapo.v1 import run_pb2 as pb
from dapo.v1.run_pb2_grpc import RunServiceStub
from tests.e2e.drivers.driver import Happening, Place
from tests.support.waiting import until


class GrpcDriver:
    def __init__(self, place: Place) -> None:
        self._stub = RunServiceStub(grpc.insecure_channel(place.grpc_address, [("grpc.enable_http_proxy", 0)]))
        self._metadata = (("authorization", f"Bearer {place.token}"),)

    def create(self, spec: dict[str, Any]) -> str:
        request = pb.CreateRunRequest(spec=json.dumps(spec))
        return str(self._stub.CreateRun(request, metadata=self._metadata).id)

    def watch(self, run_id: str) -> Iterator[Happening]:
        for event in self._stub.WatchRun(pb.WatchRunRequest(id=run_id), metadata=self._metadata):
            yield Happening(event.id, event.kind, json.loads(event.data))

    def scale(self, run_id: str, generators: int) -> None:
        self._stub.UpdateRun(pb.UpdateRunRequest(id=run_id, generators=generators), metadata=self._metadata)

    def why(self, run_id: str, group_id: str) -> dict[str, Any]:
        request = pb.ExplainGroupRequest(id=run_id, group=group_id)
        found: dict[str, Any] = json.loads(self._stub.ExplainGroup(request, metadata=self._metadata).data)
        return found

    def stop(self, run_id: str) -> tuple[str, int]:
        run = self._stub.StopRun(pb.StopRunRequest(id=run_id), metadata=self._metadata)
        return pb.RunState.Name(run.state).removeprefix("RUN_STATE_").lower(), run.step

    def resume(self, run_id: str, changes: Sequence[str]) -> None:
        self._stub.ResumeRun(pb.ResumeRunRequest(id=run_id, set=changes), metadata=self._metadata)

    def export(self, run_id: str) -> str:
        ask = lambda: self._stub.ExportRun(pb.ExportRunRequest(id=run_id), metadata=self._metadata)  # noqa: E731
        return str(until(ask, lambda found: found.state not in ("queued", "running")).directory)
