"""Which sink stands for a section of `tracking`. Each imports its library late: it is an extra."""

import os

from dapo.spec.run import RunSpec
from services.orchestrator.tracking.sink import Sink

_SETTINGS = {
    # Nobody but those that the spec names is told anything.
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow writes to a folder for those who ask for it.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
"""Of the libraries, read from the environment; what is set there wins."""


def make_sink(spec: RunSpec, part: str) -> Sink:
    """Raises ImportError where the package of the extra is not installed."""
    tracking = spec.tracking
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if part == "tensorboard":
        from services.orchestrator.tracking.sinks.tensorboard import TensorboardSink

        return TensorboardSink()
    if part == "wandb" and tracking.wandb is not None:
        from services.orchestrator.tracking.sinks.wandb import WandbSink

        return WandbSink(tracking.wandb)
    if part == "mlflow" and tracking.mlflow is not None:
        from services.orchestrator.tracking.sinks.mlflow import MlflowSink

        return MlflowSink(tracking.mlflow)
    if part == "opentelemetry" and tracking.opentelemetry is not None:
        from services.orchestrator.tracking.sinks.opentelemetry import OpentelemetrySink

        return OpentelemetrySink(tracking.opentelemetry)
    raise ValueError(f"tracking has no part {part!r} in this spec")
