"""What no single field of `tracking` can tell.

Loading a spec does not look for packages and keys; `missing_for_tracking` does.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

from dapo.redaction import holds_secret, redact_url
from dapo.spec.paths import file_path
from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree
from dapo.spec.tree.tracking import TrackingSpec
from dapo.spec.wording import shown

WANDB_KEY = "WANDB_API_KEY"
_PACKAGES = {
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "opentelemetry": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}
_VARIABLES = {
    "tracking.wandb.base_url": WANDB_KEY,
    "tracking.mlflow.tracking_uri": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "tracking.opentelemetry.endpoint": "OTEL_EXPORTER_OTLP_HEADERS",
}


def tracking_urls(tracking: TrackingSpec) -> Iterator[tuple[str, str]]:
    """(field, URL) of each place that is told of the run; offline nobody is."""
    if tracking.wandb is not None and tracking.wandb.mode == "online":
        yield "tracking.wandb.base_url", tracking.wandb.base_url
    if tracking.mlflow is not None:
        yield "tracking.mlflow.tracking_uri", tracking.mlflow.tracking_uri
    if tracking.opentelemetry is not None:
        yield "tracking.opentelemetry.endpoint", tracking.opentelemetry.endpoint


def tracking_places(spec: RunTree) -> Iterator[Problem]:
    for field, url in tracking_urls(spec.tracking):
        folder = file_path(url)
        if folder is not None:
            if folder.startswith("//") or "\0" in unquote(folder):
                yield Problem(field, shown(url), "is no folder. Write file:mlruns or file:///srv/mlruns")
        elif holds_secret(url):
            cure = f"Put it into the environment of the run service: {_VARIABLES[field]}"
            yield Problem(field, redact_url(url), f"holds a secret, which the run's files would keep. {cure}")
        elif not _has_host(url):
            yield Problem(field, redact_url(url), "is no URL with a host. Write it as https://host:port")


def missing_for_tracking(spec: RunTree) -> Iterator[Problem]:
    """Packages and keys that this machine lacks."""
    tracking = spec.tracking
    for part in tracking.parts:
        if not all(map(_is_installed, _PACKAGES[part])):
            cure = f"pip install 'dapo[{part}]' where the run service runs, or leave this section out"
            yield Problem(f"tracking.{part}", None, f"its package is not installed. {cure}")
    if tracking.wandb is not None and tracking.wandb.mode == "online" and not os.environ.get(WANDB_KEY):
        cure = f"Set {WANDB_KEY} in the environment of the run service, or take mode: offline"
        yield Problem("tracking.wandb.mode", "online", f"there is no API key. {cure}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
