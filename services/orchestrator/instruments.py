"""What the run service counts while it works; what it finds out at each scrape is in services/orchestrator/metrics."""

from dapo.telemetry import instruments

LEASES_TAKEN = instruments.counter("dapo_leases_taken_total")
LEASES_LOST = instruments.counter("dapo_leases_lost_total")
API_SECONDS = instruments.histogram("dapo_api_request_seconds")
NO_ROUTE = "none"
"""Operation of a request that was refused before its route was looked for, or that has none."""


def observe_request(face: str, operation: str, status: int, seconds: float) -> None:
    """`face`: rest or grpc. `operation`: of SCOPES, another route of the service, or NO_ROUTE. `status`: of HTTP; of
    gRPC that with which REST would have answered."""
    outcome = "ok" if status < 400 else "refused" if status < 500 else "failed"
    API_SECONDS.labels(face, operation, outcome).observe(seconds)
