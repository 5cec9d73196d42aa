"""Where a run is told of beside its own folder."""

from typing import Annotated, Literal

from pydantic import Field

from dapo.spec.tree.base import Section

_Name = Annotated[str, Field(pattern=r"^[^/\\\s][^/\\]{0,127}$")]


class WandbSpec(Section):
    project: _Name = "dapo"
    """Project on Weights & Biases. A run has there the id that it has here."""
    entity: _Name | None = None
    """User or team that the project is of; null: the default one of the API key."""
    mode: Literal["online", "offline"] = "online"
    """online sends what is told as it comes, with WANDB_API_KEY of the run service's environment; offline keeps it in
    RUN_DIR/wandb, for `wandb sync`."""
    base_url: str = Field(default="https://api.wandb.ai", pattern=r"^https?://.")
    """Server, of W&B or your own."""


class MlflowSpec(Section):
    tracking_uri: str = Field(default="http://127.0.0.1:5000", pattern=r"^(https?://|file:).")
    """Server, e.g. https://mlflow.example.org, or a folder: `file:mlruns` lies below RUN_DIR, `file:///srv/mlruns`
    anywhere. User name, password and token are MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and
    MLFLOW_TRACKING_TOKEN of the run service's environment."""
    experiment: str = Field(default="dapo", min_length=1, max_length=200)
    """Made where it is not there."""


class OpentelemetrySpec(Section):
    endpoint: str = Field(default="http://127.0.0.1:4318", pattern=r"^https?://.")
    """Collector that takes OTLP over HTTP (protobuf); traces go to its path /v1/traces. Headers are
    OTEL_EXPORTER_OTLP_HEADERS of the run service's environment."""
    every_steps: int = Field(default=1, ge=1)
    """Steps that this divides have a trace."""
    groups_per_step: int = Field(default=4, ge=0, le=64)
    """Groups of the batch, evenly spread over it, that are spans of its trace."""


class TrackingSpec(Section):
    tensorboard: bool = False
    """Event files in RUN_DIR/tensorboard."""
    wandb: WandbSpec | None = None
    """Weights & Biases, where this section is there, if only as {}."""
    mlflow: MlflowSpec | None = None
    """MLflow, where this section is there, if only as {}."""
    opentelemetry: OpentelemetrySpec | None = None
    """Traces of steps, where this section is there, if only as {}."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of those that are on, which are those of dapo's extras too."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) not in (None, False))
