"""A node for a control plane without nodes: it starts the containers `worker` of pods as processes of this machine.

What it does as a kubelet does: binds pods that wait, reports what containers do, starts those again that end where the
pod says so, ends them in order when their pod is deleted, and only then lets the pod go. What it does not have:
images (a command is looked for in PATH), namespaces (an address is a loopback address of its own, a mounted folder is
named by its place on this machine wherever a variable names it).
"""

import base64
import contextlib
import itertools
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

NODE = "node-0"
_POLL_S = 0.15
_BEAT_S = 5.0
_MERGE = {"Content-Type": "application/merge-patch+json"}
Pod = dict[str, Any]


class ApiServer:
    """Requests of an administrator, as in a kubeconfig with a token."""

    def __init__(self, kubeconfig: Path) -> None:
        found = yaml.safe_load(kubeconfig.read_text())
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._http = httpx.Client(
            base_url=found["clusters"][0]["cluster"]["server"],
            headers={"Authorization": f"Bearer {found['users'][0]['user']['token']}"},
            verify=context,
            timeout=15,
            trust_env=False,
        )

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        content = None if body is None else json.dumps(body)
        return self._http.request(method, path, content=content, headers={"Content-Type": "application/json"} | headers)

    def get(self, path: str, **query: str) -> Any:
        response = self._http.get(path, params=query)
        response.raise_for_status()
        return response.json()

    def close(self) -> None:
        self._http.close()


class _Running:
    """The process of one pod's container."""

    def __init__(self, process: "subprocess.Popen[bytes]", restarts: int) -> None:
        self.process = process
        self.restarts = restarts
        self.ending_s: float | None = None


class Kubelet:
    """Runs in a thread of its own between `start` and `close`.

    `starts`: whether containers are processes; else pods are only said to run, and tests say what becomes of them.
    """

    def __init__(self, kubeconfig: Path, folder: Path, *, starts: bool = False, volumes: Path | None = None) -> None:
        """`folder`: for pods' logs and folders. `volumes`: what any claim of a volume is on this machine."""
        self._api = ApiServer(kubeconfig)
        self._folder = folder
        self._starts = starts
        self._volumes = volumes
        self._running: dict[str, _Running] = {}
        self._addresses = itertools.count(2)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self.holds = threading.Event()
        """While it is set, pods that wait stay as they are."""
        self.errors: list[str] = []

    def start(self) -> None:
        self._api.ask("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        self._beat()
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(20)
        for one in self._running.values():
            one.process.kill()
            one.process.wait()
        self._api.close()

    def pid(self, uid: str) -> int:
        """Of the first process of a pod."""
        return self._running[uid].process.pid

    def workers(self, uid: str) -> list[int]:
        """Pids of the workers in a pod, in the order of their indexes."""
        pid = self.pid(uid)
        return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def set_status(self, pod: Pod, status: dict[str, Any]) -> None:
        """Of a pod whose containers are not started."""
        self._api.ask("PATCH", f"{_path(pod)}/status", {"status": status}, **_MERGE).raise_for_status()

    def _run(self) -> None:
        beaten_s = time.monotonic()
        while not self._stopping.is_set():
            try:
                if time.monotonic() - beaten_s > _BEAT_S:
                    self._beat()
                    beaten_s = time.monotonic()
                pods = self._api.get("/api/v1/pods")["items"]
                for pod in pods:
                    self._look_after(pod)
                self._forget({pod["metadata"]["uid"] for pod in pods})
            except (httpx.HTTPError, KeyError) as error:
                self.errors.append(repr(error))
            self._stopping.wait(_POLL_S)

    def _beat(self) -> None:
        now, has = _now(), {"cpu": "64", "memory": "256Gi", "pods": "500", "nvidia.com/gpu": "8"}
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}
        status = {"capacity": has, "allocatable": has, "conditions": [{**ready, "reason": "KubeletReady"}]}
        self._api.ask("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, **_MERGE)

    def _look_after(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        if pod["metadata"].get("deletionTimestamp"):
            self._end(pod, uid)
        elif not pod["spec"].get("nodeName"):
            if not self.holds.is_set():
                target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
                metadata = {"name": pod["metadata"]["name"]}
                body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
                self._api.ask("POST", f"{_path(pod)}/binding", body)
        elif pod["spec"]["nodeName"] == NODE:
            self._keep_running(pod, uid)

    def _keep_running(self, pod: Pod, uid: str) -> None:
        status = pod.get("status") or {}
        if not self._starts:
            if status.get("phase") == "Pending" and not status.get("containerStatuses"):
                self.set_status(pod, _status("Running", {"running": {"startedAt": _now()}}, 0, self._address()))
            return
        one = self._running.get(uid)
        if one is None:
            if status.get("phase") == "Pending":
                address = self._address()
                self._running[uid] = _Running(self._spawn(pod, address), 0)
                self.set_status(pod, _status("Running", {"running": {"startedAt": _now()}}, 0, address))
            return
        code = one.process.poll()
        if code is None:
            return
        told = {"message": (self._message(uid).read_text() or None), "finishedAt": _now()}
        ended = {"terminated": {"exitCode": code if code >= 0 else 128 - code, "reason": "Error", **told}}
        address = status["podIP"]
        if pod["spec"].get("restartPolicy") == "Always":
            self._running[uid] = _Running(self._spawn(pod, address), one.restarts + 1)
            running = {"running": {"startedAt": _now()}}
            self.set_status(pod, _status("Running", running, one.restarts + 1, address, last=ended))
        elif status.get("phase") == "Running":
            self.set_status(pod, _status("Failed" if code else "Succeeded", ended, one.restarts, address))

    def _end(self, pod: Pod, uid: str) -> None:
        one = self._running.get(uid)
        if one is not None and one.process.poll() is None:
            if one.ending_s is None:
                one.ending_s = time.monotonic() + float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
                one.process.terminate()
            elif time.monotonic() >= one.ending_s:
                one.process.kill()
            return
        self._api.ask("DELETE", _path(pod), {"gracePeriodSeconds": 0})

    def _forget(self, uids: set[str]) -> None:
        """Pods that were deleted by force have nobody left but their processes."""
        for uid in self._running.keys() - uids:
            one = self._running.pop(uid)
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()

    def _address(self) -> str:
        number = next(self._addresses)
        return f"127.0.{1 + number // 250}.{number % 250 + 1}"

    def _spawn(self, pod: Pod, address: str) -> "subprocess.Popen[bytes]":
        (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "worker"]
        folder = self._folder / pod["metadata"]["uid"]
        folder.mkdir(parents=True, exist_ok=True)
        places = self._places(pod, container)
        # `python` is the one that has dapo, as in an image.
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        message = self._message(pod["metadata"]["uid"])
        message.write_text("")
        environment = {**os.environ, "PATH": path, "DAPO_POD_FOLDER": str(folder), "DAPO_POD_MESSAGE": str(message)}
        for one in container.get("env", []):
            value = self._value(one, pod, address)
            environment[one["name"]] = next(
                (
                    value.replace(mounted, str(place), 1)
                    for mounted, place in places.items()
                    if value.startswith(mounted)
                ),
                value,
            )
        with (folder / "container.log").open("ab") as log:
            return subprocess.Popen(
                container["command"], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _message(self, uid: str) -> Path:
        """What the container of a pod says as it ends, as /dev/termination-log."""
        return self._folder / uid / "termination-log"

    def _places(self, pod: Pod, container: dict[str, Any]) -> dict[str, Path]:
        """What is mounted from claims, by the path in the container."""
        claims = {one["name"] for one in pod["spec"].get("volumes", []) if "persistentVolumeClaim" in one}
        assert self._volumes is not None or not claims
        return {
            one["mountPath"]: Path(self._volumes or "") / one.get("subPath", "")
            for one in container.get("volumeMounts", [])
            if one["name"] in claims
        }

    def _value(self, variable: dict[str, Any], pod: Pod, address: str) -> str:
        source = variable.get("valueFrom") or {}
        if "fieldRef" in source:
            fields = {"metadata.name": pod["metadata"]["name"], "status.podIP": address}
            return fields[source["fieldRef"]["fieldPath"]]
        if "secretKeyRef" in source:
            name, key = source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]
            secret = self._api.get(f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{name}")
            return base64.b64decode(secret["data"][key]).decode()
        return str(variable.get("value", ""))


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _status(
    phase: str, state: dict[str, Any], restarts: int, address: str, last: dict[str, Any] | None = None
) -> dict[str, Any]:
    ready = phase == "Running"
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"type": one, "status": str(ready), "lastTransitionTime": _now()} for one in kinds]
    conditions[-1]["status"] = "True"
    container = {
        "name": "worker",
        "image": "i",
        "imageID": "",
        "ready": ready,
        "restartCount": restarts,
        "state": state,
    }
    return {
        "phase": phase,
        "podIP": address,
        "startTime": _now(),
        "conditions": conditions,
        "containerStatuses": [{**container, "state": state, "lastState": last or {}}],
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def node(kubeconfig: Path, folder: Path, **options: Any) -> Iterator[Kubelet]:
    kubelet = Kubelet(kubeconfig, folder, **options)
    kubelet.start()
    try:
        yield kubelet
    finally:
        kubelet.close()
