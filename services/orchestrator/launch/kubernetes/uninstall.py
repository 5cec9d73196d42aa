"""Before a release of the chart is uninstalled: its runs are stopped, and what is left of them in the cluster deleted.

The run service stops them, each with a checkpoint. What it does not get to within its time, or because it no longer
answers, is deleted by its labels; volumes, and so checkpoints, stay.
"""

import argparse
import asyncio
import logging
import sys

from dapo.client import AsyncRunClient, ServiceError
from dapo.telemetry.logs import configure
from services.orchestrator.launch.kubernetes.api import KINDS, KubernetesApi
from services.orchestrator.launch.kubernetes.names import common_labels, selector
from services.orchestrator.launch.launcher import LaunchError

log = logging.getLogger(__name__)

_UNDER_WAY = ("queued", "starting", "running", "draining")
_DELETED = ("JobSet", "Job", "StatefulSet", "ConfigMap")
"""Everything else of a run is owned by its ConfigMap."""


async def stop_runs(client: AsyncRunClient, within_s: float) -> list[str]:
    """Stop every run that is under way; why some were not, in words. Raises ServiceError where they are not known."""
    runs = [run["id"] for run in await client.list(states=_UNDER_WAY)]
    log.info("%d runs are stopped", len(runs))

    async def stop(run_id: str) -> str:
        try:
            async with asyncio.timeout(within_s):
                run = await client.stop(run_id)
        except ServiceError as error:
            return f"{run_id}: {error}"
        except TimeoutError:
            return f"{run_id}: not stopped within {within_s:g} s"
        log.info("%s: %s at step %d", run_id, run["state"], run["step"])
        return ""

    return [words for words in await asyncio.gather(*map(stop, runs)) if words]


async def delete_left(api: KubernetesApi, instance: str) -> list[str]:
    """Delete what runs of a release have left; names of it. Raises LaunchError."""
    found = []
    labels = {"labelSelector": selector(common_labels(instance))}
    for kind in _DELETED:
        if KINDS[kind].group.startswith("apis/jobset") and not await api.has(kind):
            continue
        for one in await api.find_all(kind, labels):
            name = one["metadata"]["name"]
            await api.delete(kind, name)
            found.append(f"{kind} {name}")
    return found


async def uninstall(arguments: argparse.Namespace) -> int:
    try:
        async with AsyncRunClient.from_env() as client:
            left = await stop_runs(client, arguments.seconds)
    except ServiceError as error:
        left = [str(error)]
    for words in left:
        log.warning("%s", words)
    try:
        api = await asyncio.to_thread(KubernetesApi.connect, namespace=arguments.namespace)
        for name in await delete_left(api, arguments.instance):
            log.warning("%s was left and is deleted", name)
    except LaunchError as error:
        log.error("what is left of runs could not be deleted: %s", error)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instance", required=True, help="name of the release")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="that the runs have to stop")
    configure("uninstall")
    return asyncio.run(uninstall(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
