"""The typed client of the run API: start runs on a run service, watch them and stop them.

with RunClient("http://127.0.0.1:8400", token) as client:
    run = client.create(spec_yaml)
    for event in client.events(run["id"]):
        print(event.kind, event.data)
    print(client.get(run["id"])["state"])
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict, cast

import httpx

TOKEN_VARIABLE = "DAPO_API_TOKEN"
"""Environment variable that holds the bearer token of a run service."""
_CONNECT_S = 10.0
_ANSWER_S = 60.0


class ServiceError(RuntimeError):
    """The run service does not answer, failed at a request, or went away."""


class ServiceSilent(ServiceError):
    """A watched service has said nothing for longer than it ever should: it hangs, or was stopped."""


class RefusedRequest(ServiceError):
    """The service refused a request, e.g. an invalid spec or an unknown run; the message is the service's own."""


class Run(TypedDict):
    """What the service says of a run."""

    id: str
    state: str
    """starting, running, draining, succeeded, failed or stopped."""
    run_dir: str
    """Folder of the run on the service's machine."""
    message: str
    """Why the run failed or stopped; "" otherwise."""
    step: int
    """Finished steps."""
    steps_total: int
    created_at: str
    """ISO 8601, in UTC."""
    ledger: dict[str, int]
    """Number of groups by ledger state."""


class RunEvent(NamedTuple):
    """Something that happened in a run."""

    id: str
    kind: str
    """state, step, service, evaluation or alert."""
    data: dict[str, Any]


class RunClient:
    """A connection to one run service over REST. Not safe to share between threads.

    Every method raises ServiceError where the service does not answer within a minute or fails, and RefusedRequest
    where it refuses.
    """

    def __init__(self, base_url: str, token: str = "") -> None:
        """`base_url` is e.g. http://127.0.0.1:8400, asked directly whatever proxies there are; `token` is the service's
        DAPO_API_TOKEN, "" where it has none."""
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(_CONNECT_S, read=_ANSWER_S),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connection; runs go on."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def create(self, spec_yaml: str, run_dir: str = "") -> Run:
        """Start a run of the RunSpec in `spec_yaml` (YAML or JSON text) and return it while it starts.

        `run_dir` is a folder below the service's directory (`--state-dir`); "": runs/<id>.
        Raises RefusedRequest where the spec is invalid, or the folder lies elsewhere or holds a run already.
        """
        return self._run("POST", "/v1/runs", {"spec": spec_yaml, "run_dir": run_dir})

    def resume(self, run_id: str = "", run_dir: str = "", overrides: Sequence[str] = ()) -> Run:
        """Go on with a run that has ended, named by its id or its folder, and return it while it starts.

        `overrides` change fields of its spec, e.g. "training.steps=100". Raises RefusedRequest where there is no such
        run, it has not ended, or it cannot go on with such a spec.
        """
        return self._run("POST", "/v1/runs/resume", {"id": run_id, "run_dir": run_dir, "set": list(overrides)})

    def list(self) -> "list[Run]":
        """All runs of the service, oldest first."""
        return cast("list[Run]", self._answer("GET", "/v1/runs").json()["runs"])

    def scale(self, run_id: str, *, generators: int | None = None, verifiers: int | None = None) -> Run:
        """Have so many generators or verifiers; None: as many as there are.

        Returns once the others are started or gone. Raises RefusedRequest where the run does not go on or there is no
        room for them.
        """
        body = {"generators": generators, "verifiers": verifiers}
        return self._run("POST", f"/v1/runs/{run_id}/scale", body)

    def purge(self, run_id: str) -> None:
        """Delete what a run that has ended holds in Redis. Raises RefusedRequest where there is none of that id, or it
        goes on."""
        self._answer("POST", f"/v1/runs/{run_id}/purge")

    def get(self, run_id: str) -> Run:
        """The run as it is now. Raises RefusedRequest where there is none of that id."""
        return self._run("GET", f"/v1/runs/{run_id}")

    def stop(self, run_id: str) -> Run:
        """Have a checkpoint written (`checkpoint.on_stop_s`), then end the run; returns once its processes are gone.

        Waits without limit: the service has its own. Raises RefusedRequest where there is none of that id.
        """
        return self._run("POST", f"/v1/runs/{run_id}/stop", timeout=httpx.Timeout(_CONNECT_S, read=None))

    def explain(self, run_id: str, group_id: str) -> dict[str, Any]:
        """What is known of a group, as dapo.records.explanations.GroupExplanation has it. Raises RefusedRequest where
        there is no record of it."""
        return cast(dict[str, Any], self._answer("GET", f"/v1/runs/{run_id}/groups/{group_id}").json())

    def dead_letters(self, run_id: str, count: int = 100) -> Sequence[dict[str, Any]]:
        """What was taken out of circulation, the newest first, as dapo.records.group_archive.DeadLetter has it."""
        found = self._answer("GET", f"/v1/runs/{run_id}/dead-letters?count={count}").json()
        return cast(Sequence[dict[str, Any]], found["letters"])

    def requeue(self, run_id: str, group_id: str) -> None:
        """Have the prompt of a failed group issued once more, as a new group. Raises RefusedRequest, which says why
        that cannot be."""
        self._answer("POST", f"/v1/runs/{run_id}/groups/{group_id}/requeue")

    def events(self, run_id: str, after: str = "", *, silence_s: float | None = None) -> Iterator[RunEvent]:
        """The events of the run behind the one with id `after` ("": all), then each as it comes, until the run ends.

        A service says something every ten seconds; with `silence_s` ServiceSilent is raised where it says nothing for
        so long. Raises RefusedRequest where there is no run of that id, ServiceError where the service goes away.
        """
        timeout, wanted = httpx.Timeout(_CONNECT_S, read=silence_s), {"after": after}
        try:
            with self._http.stream("GET", f"/v1/runs/{run_id}/events", params=wanted, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise _error(response)
                yield from _parse_events(response.iter_lines())
        except httpx.ReadTimeout as error:
            raise ServiceSilent(f"the run service has said nothing for {silence_s:g} s") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"the run service went away: {error}") from error

    def _run(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> Run:
        return cast(Run, self._answer(method, path, body, timeout).json())

    def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=body, timeout=timeout or self._http.timeout)
        except httpx.HTTPError as error:
            raise ServiceError(f"the run service does not answer: {error}") from error
        if response.is_error:
            raise _error(response)
        return response


def _error(response: httpx.Response) -> ServiceError:
    """Of an answer that is an error: the refusal in the service's words, or whatever else came."""
    if response.is_client_error:
        try:
            return RefusedRequest(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            pass  # It comes from another server, such as a proxy.
    return ServiceError(f"the run service answered {response.status_code}: {response.text.strip()}")


def _parse_events(lines: Iterator[str]) -> Iterator[RunEvent]:
    """The events of a stream of server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue  # a comment: somebody is there
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield RunEvent(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}
