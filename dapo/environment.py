"""Environment variables that say where a run service is, and who asks."""

URL_VARIABLE = "DAPO_URL"
DEFAULT_URL = "http://127.0.0.1:8400"
"""Where `dapo serve` listens unless told otherwise."""
TOKEN_VARIABLE = "DAPO_API_TOKEN"
"""A bearer token of the service."""
REDIS_VARIABLE = "REDIS_URL"
"""One server for all runs of a service, with its password."""
TRACKER_KEYS = (
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
)
STORE_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
)
"""Of an object store (`checkpoint.mirror`)."""
SERVICE_KEYS = (TOKEN_VARIABLE, REDIS_VARIABLE, *TRACKER_KEYS, *STORE_KEYS)
"""What only the run service needs: no process beside it is given them, but a tracker's own its key."""
