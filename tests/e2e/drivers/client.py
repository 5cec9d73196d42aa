"""Over the Python client."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dapo.client import RunClient
from tests.e2e.drivers.driver import Happening, Place
from tests.support.waiting import until


class ClientDriver:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = RunClient(place.url, place.token)

    def create(self, spec: dict[str, Any]) -> str:
        return self._client.create(json.dumps(spec))["id"]

    def watch(self, run_id: str) -> Iterator[Happening]:
        # A client is not to be shared between threads, and a watch goes on beside the rest.
        with RunClient(self._place.url, self._place.token) as client:
            for event in client.events(run_id):
                yield Happening(*event)

    def scale(self, run_id: str, generators: int) -> None:
        self._client.update(run_id, generators=generators)

    def why(self, run_id: str, group_id: str) -> dict[str, Any]:
        return dict(self._client.explain(run_id, group_id))

    def stop(self, run_id: str) -> tuple[str, int]:
        run = self._client.stop(run_id)
        return run["state"], run["step"]

    def resume(self, run_id: str, changes: Sequence[str]) -> None:
        self._client.resume(run_id, changes)

    def export(self, run_id: str) -> str:
        ask = lambda: self._client.export(run_id)  # noqa: E731
        return until(ask, lambda found: found["state"] not in ("queued", "running"))["directory"]
