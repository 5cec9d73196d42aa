"""Makes the launcher `kubernetes` of what a run service was told, and what such a service takes of its runs."""

import argparse
import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from dapo.environment import REDIS_VARIABLE
from services.orchestrator.launch.kubernetes.settings import KubernetesSettings, TemplateError, load_templates
from services.orchestrator.launch.launcher import Launcher, LaunchError


def add_kubernetes_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a run service for this launcher."""
    group = parser.add_argument_group("launcher kubernetes")
    group.add_argument("--kube-templates", type=Path, help="folder of launcher.yaml and a pod template for each role")
    group.add_argument("--kube-namespace", help="of the runs' objects; default: that of the pod or of the context")
    group.add_argument("--kube-context", help="of the kubeconfig; default: the pod's service account, else the active")


async def open_kubernetes(
    arguments: argparse.Namespace, stack: AsyncExitStack, is_done: Callable[[Path], bool]
) -> tuple[Launcher, KubernetesSettings]:
    """Closed with the stack; with the settings of new runs. `is_done`: whether the run in a folder has ended, or none
    is there.

    Raises LaunchError, which says which option is missing or wrong, or why the cluster cannot be used.
    """
    if arguments.kube_templates is None:
        raise LaunchError("--launcher kubernetes wants --kube-templates: the chart renders such a folder")
    if arguments.redis_url is None:
        raise LaunchError(f"--launcher kubernetes wants a Redis that pods reach: set {REDIS_VARIABLE} or --redis-url")
    try:
        # Its client is an extra that other launchers do not need.
        from services.orchestrator.launch.kubernetes.api import KubernetesApi
        from services.orchestrator.launch.kubernetes.workers import KubernetesLauncher
    except ModuleNotFoundError as error:
        raise LaunchError(f"--launcher kubernetes wants {error.name}: pip install 'dapo[kubernetes]'") from error
    from services.orchestrator.launch.kubernetes.objects import Cluster

    try:
        templates = load_templates(arguments.kube_templates)
    except TemplateError as error:
        raise LaunchError(str(error)) from error
    api = await asyncio.to_thread(
        KubernetesApi.connect, context=arguments.kube_context, namespace=arguments.kube_namespace
    )
    cluster = Cluster(api.namespace, await api.version(), await api.has("JobSet"))
    place = {"state_dir": arguments.state_dir, "redis_url": arguments.redis_url}
    launcher = KubernetesLauncher(api, templates, cluster, **place, is_done=is_done)
    await launcher.open()
    stack.push_async_callback(launcher.close)
    return launcher, templates.settings
