"""The pods of a release as they are now: one watch of the API server for all runs."""

import logging
import threading
import time
from collections.abc import Iterable
from typing import Any

from services.orchestrator.launch.kubernetes.api import ApiError, KubernetesApi, PodStream
from services.orchestrator.launch.kubernetes.names import RUN

log = logging.getLogger(__name__)

_WATCH_S = 60
_RELIST_S = 600.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_GONE = 410
Pod = dict[str, Any]


class PodWatch:
    """Keeps the pods that have some labels, in a thread of its own.

    A run's monitor looks four times a second: asked of the API server, that would be its heaviest client. So the pods
    are listed once, and then changes are read as they come; every ten minutes, and where changes may have been missed,
    they are listed again.
    Promises: `pods` answers at once, with what the server said last; `silent_s` says for how long it has said nothing.
    Restart: nothing is kept; the list comes first.
    """

    def __init__(self, api: KubernetesApi, labels: str) -> None:
        self._api = api
        self._labels = labels
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._heard_s = time.monotonic()
        self._listed = threading.Event()
        self._closing = threading.Event()
        self._stream: PodStream | None = None
        self._thread = threading.Thread(target=self._keep, name="pods", daemon=True)
        self.trouble = ""
        """Why the server could not be read last; "" while it can."""

    def start(self) -> None:
        self._thread.start()

    def wait_listed(self, within_s: float) -> bool:
        """Whether the pods have been listed once, by then at the latest. Blocks."""
        return self._listed.wait(within_s)

    def pods(self, run_label: str) -> list[Pod]:
        """Of one run."""
        with self._lock:
            return [pod for pod in self._pods.values() if (pod["metadata"].get("labels") or {}).get(RUN) == run_label]

    @property
    def silent_s(self) -> float:
        """Since the server was heard last."""
        return time.monotonic() - self._heard_s

    def close(self) -> None:
        self._closing.set()
        if (stream := self._stream) is not None:
            stream.close()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_PAUSE_S)

    def _keep(self) -> None:
        pause_s = _PAUSE_S
        while not self._closing.is_set():
            try:
                self._list_and_watch()
                pause_s = _PAUSE_S
            except ApiError as error:
                if self._closing.is_set():
                    return
                if error.status == _GONE:
                    continue
                self.trouble = str(error)
                log.warning("pods are listed again in %g s: %s", pause_s, error)
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _list_and_watch(self) -> None:
        """Until it is time to list them again. Raises ApiError."""
        pods, version = self._api.list_pods(self._labels)
        with self._lock:
            self._pods = {pod["metadata"]["uid"]: pod for pod in pods}
        self._hear()
        self._listed.set()
        until_s = time.monotonic() + _RELIST_S
        while time.monotonic() < until_s and not self._closing.is_set():
            self._stream = self._api.watch_pods(self._labels, version, _WATCH_S)
            version = self._follow(self._stream, version)

    def _follow(self, stream: Iterable[tuple[str, Pod]], version: str) -> str:
        """The version of the last change. Raises ApiError."""
        self._hear()
        for kind, pod in stream:
            version = pod["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                with self._lock:
                    if kind == "DELETED":
                        self._pods.pop(pod["metadata"]["uid"], None)
                    else:
                        self._pods[pod["metadata"]["uid"]] = pod
            self._hear()
        return version

    def _hear(self) -> None:
        self._heard_s, self.trouble = time.monotonic(), ""
