"""Over REST, with nothing but HTTP."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from tests.e2e.drivers.driver import Happening, Place
from tests.support.waiting import until


class RestDriver:
    def __init__(self, place: Place) -> None:
        headers = {"Authorization": f"Bearer {place.token}"}
        self._http = httpx.Client(base_url=place.url, headers=headers, timeout=240, trust_env=False)

    def create(self, spec: dict[str, Any]) -> str:
        return str(self._ask("POST", "/v1/runs", {"spec": spec})["id"])

    def watch(self, run_id: str) -> Iterator[Happening]:
        fields: dict[str, str] = {}
        with self._http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif fields.keys() >= {"id", "event", "data"}:
                    yield Happening(fields["id"], fields["event"], json.loads(fields["data"]))
                    fields = {}

    def scale(self, run_id: str, generators: int) -> None:
        self._ask("PATCH", f"/v1/runs/{run_id}", {"generators": generators})

    def why(self, run_id: str, group_id: str) -> dict[str, Any]:
        return self._ask("GET", f"/v1/runs/{run_id}/groups/{group_id}")

    def stop(self, run_id: str) -> tuple[str, int]:
        run = self._ask("POST", f"/v1/runs/{run_id}/stop")
        return run["state"], run["step"]

    def resume(self, run_id: str, changes: Sequence[str]) -> None:
        self._ask("POST", f"/v1/runs/{run_id}/resume", {"set": list(changes)})

    def export(self, run_id: str) -> str:
        ask = lambda: self._ask("POST", f"/v1/runs/{run_id}/export", {})  # noqa: E731
        return str(until(ask, lambda found: found["state"] not in ("queued", "running"))["directory"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._http.request(method, path, json=body)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found
