"""The only module that speaks to an API server, through the official client."""

import asyncio
import json
import logging
import random
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.watch.watch import iter_resp_lines

from services.orchestrator.launch.kubernetes.names import MANAGER
from services.orchestrator.launch.launcher import LaunchError

log = logging.getLogger(__name__)

_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_THREADS = 8
_CONNECT_S = 5.0
_ANSWER_S = 15.0
_PATIENCE_S = 120.0
"""How long a server that is away is asked again: a control plane that is upgraded takes that long."""
_FAULT_S = 20.0
"""One that answers with a fault of its own (500): some versions say so of objects that are wrong. Also at the service's
start, where more often something else is."""
_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
_AGAIN = frozenset({409, 429, 500, 502, 503, 504})
"""Statuses after which the same request may well succeed; each of ours may be sent twice."""
_LONGEST = 500

Manifest = dict[str, Any]


class ApiError(LaunchError):
    """The API server refuses a request, or does not answer; `status` is that of HTTP, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Kind(NamedTuple):
    group: str
    """As `api/v1`, `apis/apps/v1`."""
    plural: str


KINDS: Mapping[str, Kind] = {
    "ConfigMap": Kind("api/v1", "configmaps"),
    "Service": Kind("api/v1", "services"),
    "Pod": Kind("api/v1", "pods"),
    "Event": Kind("api/v1", "events"),
    "StatefulSet": Kind("apis/apps/v1", "statefulsets"),
    "Job": Kind("apis/batch/v1", "jobs"),
    "ScaledObject": Kind("apis/keda.sh/v1alpha1", "scaledobjects"),
    "JobSet": Kind("apis/jobset.x-k8s.io/v1alpha2", "jobsets"),
}


class KubernetesApi:
    """One namespace of one cluster.

    Promises: every request is bounded; one that may succeed later (409, 429, 5xx, no answer) is sent again with growing
    pauses, for two minutes. What is refused is a LaunchError that says what to do. Calls run in a few threads of their
    own, so that the service goes on whatever the server does.
    """

    def __init__(self, api_client: client.ApiClient, namespace: str) -> None:
        self._client = api_client
        self.namespace = namespace
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kubernetes")

    def close(self) -> None:
        """What is asked by now is still answered."""
        self._threads.shutdown(wait=False)

    @classmethod
    def connect(cls, *, context: str | None = None, namespace: str | None = None) -> "KubernetesApi":
        """As a pod's service account, else as KUBECONFIG or ~/.kube/config says. Raises LaunchError."""
        settings = client.Configuration()
        try:
            if context is None:
                with suppress(config.ConfigException):
                    config.load_incluster_config(client_configuration=settings)
                    with open(_NAMESPACE_FILE, encoding="utf-8") as file:
                        return cls(_client(settings), namespace or file.read().strip())
            config.load_kube_config(context=context, client_configuration=settings)
            _, active = config.list_kube_config_contexts()
            chosen = active if context is None else {"context": {}}
        except (config.ConfigException, OSError) as error:
            raise LaunchError(
                f"--launcher kubernetes: no cluster is known ({error}). Run in a pod with a service account, or set "
                "KUBECONFIG, perhaps with --kube-context"
            ) from error
        return cls(_client(settings), namespace or chosen["context"].get("namespace") or "default")

    def path(self, kind: str, name: str = "", below: str = "") -> str:
        group, plural = KINDS[kind]
        parts = [group, "namespaces", self.namespace, plural, name, below]
        return "/" + "/".join(quote(part, safe="/") for part in parts if part)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply, as our field manager; fields that others have set since become ours again."""
        path = self.path(manifest["kind"], manifest["metadata"]["name"])
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._object("PATCH", path, query, manifest, "application/apply-patch+yaml")

    async def get(self, kind: str, name: str) -> Manifest | None:
        return await self._unless_gone("GET", self.path(kind, name))

    async def find_all(self, kind: str, query: Mapping[str, str]) -> list[Manifest]:
        found = await self._object("GET", self.path(kind), query)
        return list(found.get("items") or [])

    async def scale(self, kind: str, name: str, replicas: int) -> None:
        """Through the subresource that autoscalers use, too."""
        body = {"spec": {"replicas": replicas}}
        query = {"fieldManager": f"{MANAGER}-scale"}
        await self._object("PATCH", self.path(kind, name, "scale"), query, body, "application/merge-patch+json")

    async def delete(self, kind: str, name: str, *, uid: str | None = None, grace_s: int | None = None) -> None:
        """With all that it owns; nothing where it is gone, or another one of its name is there than that of `uid`."""
        body: Manifest = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            await self._object("DELETE", self.path(kind, name), {}, body)
        except ApiError as error:
            if error.status not in ((404, 409) if uid is not None else (404,)):
                raise

    async def log(self, pod: str, container: str, lines: int, *, previous: bool) -> str:
        """The end of a container's log. Raises LaunchError, also where there is none."""
        query = {"container": container, "tailLines": str(lines), "previous": str(previous).lower()}
        found = await self._ask("GET", self.path("Pod", pod, "log"), query)
        return found.decode("utf-8", errors="replace")

    async def version(self) -> tuple[int, int]:
        """Of the API server."""
        found = json.loads(await self._ask("GET", "/version", {}, patience_s=_FAULT_S))
        return tuple(int("".join(c for c in found[part] if c.isdigit())) for part in ("major", "minor"))  # type: ignore[return-value]

    async def has(self, kind: str) -> bool:
        """Whether the cluster has a kind of objects that is not built in."""
        found = await self._unless_gone("GET", f"/{KINDS[kind].group}")
        return any(one.get("kind") == kind for one in (found or {}).get("resources") or [])

    def list_pods(self, labels: str) -> tuple[list[Manifest], str]:
        """All pods that have these labels, and the version of that list. Blocks. Raises ApiError."""
        found = json.loads(self._read("GET", self.path("Pod"), {"labelSelector": labels}))
        return list(found.get("items") or []), found["metadata"]["resourceVersion"]

    def watch_pods(self, labels: str, version: str, for_s: int) -> "PodStream":
        """What changes of them after that version, for so long. Blocks until the server answers. Raises ApiError."""
        query = {
            "labelSelector": labels,
            "resourceVersion": version,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(for_s),
        }
        return PodStream(self._send("GET", self.path("Pod"), query, None, "", for_s + _ANSWER_S))

    async def _unless_gone(self, method: str, path: str) -> Manifest | None:
        try:
            return await self._object(method, path, {})
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _object(
        self, method: str, path: str, query: Mapping[str, str], body: Manifest | None = None, content: str = ""
    ) -> Manifest:
        found: Manifest = json.loads(await self._ask(method, path, query, body, content, patience_s=_PATIENCE_S))
        return found

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Manifest | None = None,
        content: str = "",
        *,
        patience_s: float = 0.0,
    ) -> bytes:
        """The body of the answer. Raises ApiError."""
        began_s, pause_s = time.monotonic(), _PAUSE_S
        read = partial(self._read, method, path, query, body, content)
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, read)
            except ApiError as error:
                # A precondition that fails once fails always.
                final = error.status == 409 and body is not None and "preconditions" in body
                within_s = min(patience_s, _FAULT_S) if error.status == 500 else patience_s
                if final or error.status not in (0, *_AGAIN) or time.monotonic() + pause_s >= began_s + within_s:
                    raise
                log.info("asked again: %s", error)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _read(
        self, method: str, path: str, query: Mapping[str, str], body: Manifest | None = None, content: str = ""
    ) -> bytes:
        """The whole answer. Blocks. Raises ApiError."""
        with _answering(f"{method} {path}"):
            data: bytes = self._send(method, path, query, body, content, _ANSWER_S).data
            return data

    def _send(
        self, method: str, path: str, query: Mapping[str, str], body: Manifest | None, content: str, answer_s: float
    ) -> urllib3.BaseHTTPResponse:
        """The answer as it begins. Blocks. Raises ApiError."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content or "application/json"
        what = f"{method} {path}"
        with _answering(what):
            request = self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._client.call_api(*request, _request_timeout=(_CONNECT_S, answer_s)).response
            if response.status >= 300:
                raise ApiError(_refusal(what, response.status, response.data, self.namespace), response.status)
        return response


@contextmanager
def _answering(what: str) -> Iterator[None]:
    """Raises ApiError where the server does not answer, or the client has no valid credentials to ask with."""
    try:
        yield
    except (urllib3.exceptions.HTTPError, ApiException, config.ConfigException, OSError) as error:
        raise ApiError(f"the cluster's API server does not answer {what}: {error}") from error


class PodStream:
    """Changes of pods, as they come: kind (`ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`) and the object."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[tuple[str, Manifest]]:
        """Until the server ends it, or `close`. Raises ApiError; its status is 410 where the version is too old."""
        try:
            for line in iter_resp_lines(self._response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    found = event["object"]
                    raise ApiError(f"the watch of pods ended: {found.get('message')}", int(found.get("code") or 0))
                yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # The client's connection loses its file where another thread closes it.
            raise ApiError(f"the watch of pods broke off: {error}") from error
        finally:
            self._response.release_conn()

    def close(self) -> None:
        """From another thread: who waits for the next change is let go."""
        connection = getattr(self._response, "connection", None)
        if (wire := getattr(connection, "sock", None)) is not None:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)


def _client(settings: client.Configuration) -> client.ApiClient:
    settings.retries = False
    return client.ApiClient(settings)


def _refusal(what: str, status: int, body: bytes, namespace: str) -> str:
    try:
        message = json.loads(body).get("message") or ""
    except (ValueError, AttributeError):
        message = body.decode("utf-8", errors="replace")
    words = f"the cluster's API server refuses {what} ({status}): {message[:_LONGEST].strip()}"
    if status == 401:
        return f"{words}. Give the service a token that is valid"
    if status == 403 and "quota" in message:
        return f"{words}. Raise the quota of namespace {namespace}, or ask for less"
    if status == 403:
        return f"{words}. Give the service's account the Role of the chart (helm upgrade), or one with this verb"
    return words
