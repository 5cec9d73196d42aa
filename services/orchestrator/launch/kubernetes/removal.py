"""How pods, and the objects that hold them, are taken away: in order, and within a bound."""

import asyncio
import logging
import time
from collections.abc import Sequence

from services.orchestrator.launch.kubernetes.api import KubernetesApi, Manifest
from services.orchestrator.launch.kubernetes.names import RUN
from services.orchestrator.launch.kubernetes.watching import PodWatch
from services.orchestrator.launch.launcher import LaunchError

log = logging.getLogger(__name__)

_POLL_S = 0.2
_SPARE_S = 15.0
"""What a kubelet may take beyond a pod's time to end."""
_FORCED_S = 15.0


class Removal:
    """Of pods that the watch knows. Promises: whoever waits for it is told what does not go away, and the cure."""

    def __init__(self, api: KubernetesApi, watch: PodWatch) -> None:
        self._api = api
        self._watch = watch

    async def pods(self, pods: Sequence[Manifest]) -> None:
        """Have them end in order, and return once they are gone. After their time they are forced to, as where a node
        is lost: the bus lets no worker of before write beside its successor. Raises LaunchError."""
        if not pods:
            return
        await asyncio.gather(*(self._delete(pod) for pod in pods))
        grace_s = max(float(pod["spec"].get("terminationGracePeriodSeconds") or 0.0) for pod in pods)
        left = await self._until_gone(pods, grace_s + _SPARE_S)
        if left:
            log.warning("pods %s did not end by themselves and are forced to", _names(left))
            await asyncio.gather(*(self._delete(pod, grace_s=0) for pod in left))
            left = await self._until_gone(left, _FORCED_S)
        if left:
            raise LaunchError(
                f"pods {_names(left)} do not go away: most often their node does not answer. Delete the node if it is "
                f"gone, or kubectl delete pod -n {self._api.namespace} --force --grace-period=0 {_names(left)}"
            )

    async def job(self, kind: str, name: str, pods: Sequence[Manifest]) -> None:
        """A Job or a JobSet with its pods, so that another one of its name can be made. Raises LaunchError."""
        await self._api.delete(kind, name)
        await self.pods(pods)
        deadline = time.monotonic() + _SPARE_S
        while await self._api.get(kind, name) is not None:
            if time.monotonic() >= deadline:
                raise LaunchError(
                    f"{kind} {name} is not gone {_SPARE_S:g} s after it was deleted: look at its finalizers (kubectl "
                    f"get {kind.lower()} {name} -n {self._api.namespace} -o yaml)"
                )
            await asyncio.sleep(_POLL_S)

    async def _delete(self, pod: Manifest, grace_s: int | None = None) -> None:
        metadata = pod["metadata"]
        await self._api.delete("Pod", metadata["name"], uid=metadata["uid"], grace_s=grace_s)

    async def _until_gone(self, pods: Sequence[Manifest], within_s: float) -> list[Manifest]:
        """Those that are still there then."""
        deadline = time.monotonic() + within_s
        runs = {pod["metadata"]["labels"][RUN] for pod in pods}
        while True:
            there = {pod["metadata"]["uid"] for run in runs for pod in self._watch.pods(run)}
            left = [pod for pod in pods if pod["metadata"]["uid"] in there]
            if not left or time.monotonic() >= deadline:
                return left
            await asyncio.sleep(_POLL_S)


def _names(pods: Sequence[Manifest]) -> str:
    return " ".join(sorted(pod["metadata"]["name"] for pod in pods))
