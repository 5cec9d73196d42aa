"""What goes wrong between a client and a run service."""

import json
from collections.abc import Sequence

from dapo.client.answers.specs import FieldProblem

FOR_NOW = (429, 502, 503, 504)
"""Statuses of answers that may be others soon."""


class ServiceError(RuntimeError):
    """The run service does not answer, failed at a request, or went away."""


class SettingsError(ServiceError):
    """The service cannot be asked: its URL, the token or the files of TLS cannot be used."""


class ServiceSilent(ServiceError):
    """A watched service has said nothing for longer than it ever should: it hangs, or was stopped."""


class RefusedRequest(ServiceError):
    """The service refused a request, e.g. an invalid spec or an unknown run, or says why it cannot answer, e.g. that
    the run's folder is damaged; the message is the service's own."""

    def __init__(self, detail: str, *, kind: str, status: int, problems: Sequence[FieldProblem] = ()) -> None:
        super().__init__(detail)
        self.kind = kind
        """E.g. urn:dapo:problem:not_found; docs/api.md has the list."""
        self.status = status
        """Of HTTP."""
        self.problems = tuple(problems)
        """One for each field that is wrong."""

    @property
    def for_now(self) -> bool:
        """The same request may be answered later: too much was asked at once, or the service cannot answer yet."""
        return self.status in FOR_NOW


def error_of(status: int, body: bytes) -> ServiceError:
    """Of an answer that is an error: the refusal in the service's words, or whatever else came."""
    try:
        found = json.loads(body)
        return RefusedRequest(found["detail"], kind=found["type"], status=status, problems=found["problems"])
    except (ValueError, KeyError, TypeError):
        pass  # It comes from another server, such as a proxy, or the service has failed.
    return ServiceError(f"the run service answered {status}: {body.decode('utf-8', 'replace').strip()}")
