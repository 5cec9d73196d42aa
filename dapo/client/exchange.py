"""How a request and its answer go over the wire, without any: what is sent, when it is sent again, what came back.

An operation is a generator that yields each Request, is sent its answer, and returns what it is asked for. `exchanges`
puts the repetitions between; a client only does what that yields, waiting or not.
"""

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import httpx

from dapo.client.errors import FOR_NOW, ServiceError, ServiceSilent, error_of

CONNECT_S = 10.0
ANSWER_S = 60.0
_PAUSES_S = (0.2, 1.0)
"""Before a request is sent for the second and the third time."""
_LONGEST_PAUSE_S = 5.0
IDEMPOTENCY_KEY = "Idempotency-Key"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    silence_s: float | None = ANSWER_S
    """Nothing comes for so long, and nobody waits any more; None: however long that is."""
    awaited: str = ""
    """What happens before it is answered, where that may take long."""

    @property
    def repeatable(self) -> bool:
        """It may be sent again where nobody knows whether it was done: a read, or what its key makes unique."""
        return self.method == "GET" or IDEMPOTENCY_KEY in self.headers

    def built(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return http.build_request(
            self.method,
            self.path,
            params=self.query,
            json=self.body,
            headers=self.headers,
            timeout=httpx.Timeout(CONNECT_S, read=self.silence_s),
        )


class Pause(NamedTuple):
    seconds: float


Outcome = httpx.Response | httpx.HTTPError | None
"""Of a Request the first two, of a Pause None."""
Asking = Generator[Request, Any, T]
"""An operation."""


def given(**values: Any) -> dict[str, Any]:
    """Those that say something: not None, no empty text, nothing empty."""
    return {name: value for name, value in values.items() if value is not None and value not in ("", [], (), {})}


def part(answer: Any, name: str) -> Any:
    """Raises ServiceError where it is not there: another server has answered."""
    try:
        return answer[name]
    except (KeyError, TypeError) as error:
        raise ServiceError(f"the run service answered without `{name}`: is it one (dapo serve)?") from error


def exchanges(asking: Asking[T], *, repeat: bool) -> Generator[Request | Pause, Outcome, T]:
    """The operation with each of its requests sent as often as it takes, three times at most and only where that is
    safe. Raises ServiceError."""
    answer: Any = None
    while True:
        try:
            request = asking.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield from _exchange(request, _PAUSES_S if repeat and request.repeatable else ())


def _exchange(request: Request, pauses: tuple[float, ...]) -> Generator[Request | Pause, Outcome, Any]:
    for pause in pauses:
        outcome = yield request
        wait_s = _wait_s(outcome, pause)
        if wait_s is None:
            return _read(request, outcome)
        yield Pause(wait_s)
    return _read(request, (yield request))


def _wait_s(outcome: Outcome, pause: float) -> float | None:
    """Before the request is sent again; None: it is not worth it."""
    if isinstance(outcome, httpx.Response):
        if outcome.status_code not in FOR_NOW:
            return None
        asked = outcome.headers.get("Retry-After", "")
        wait = max(pause, float(asked)) if asked.isascii() and asked.isdigit() else pause
        return wait if wait <= _LONGEST_PAUSE_S else None
    # A service that is slow is not helped by another request.
    worth = isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError)
    return pause if worth else None


def _read(request: Request, outcome: Outcome) -> Any:
    if isinstance(outcome, httpx.ReadTimeout):
        waited = f" while {request.awaited} was waited for" if request.awaited else ""
        raise ServiceError(f"the run service does not answer: nothing has come for {request.silence_s:g} s{waited}")
    if isinstance(outcome, httpx.HTTPError):
        raise ServiceError(f"the run service does not answer: {in_words(outcome)}") from outcome
    assert outcome is not None
    if not outcome.is_success:
        raise error_of(outcome.status_code, outcome.content)
    try:
        return json.loads(outcome.content) if outcome.content else None
    except ValueError as error:
        raise ServiceError("the run service answered no JSON: is it one (dapo serve)?") from error


def in_words(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_S:g} s"
    return str(error) or type(error).__name__


class Decoder(Protocol[T_co]):
    """Of the bytes of a stream as they come."""

    def feed(self, data: bytes) -> Iterable[T_co]: ...

    def end(self) -> Iterable[T_co]:
        """What is left when the stream ends."""
        ...


@dataclass(frozen=True)
class Stream(Generic[T]):
    """What comes bit by bit. It is asked for once: whoever wants it again knows what it has seen."""

    request: Request
    decoder: Callable[[], Decoder[T]]

    def error(self, error: httpx.HTTPError) -> ServiceError:
        if isinstance(error, httpx.ReadTimeout):
            return ServiceSilent(f"the run service has said nothing for {self.request.silence_s:g} s")
        return ServiceError(f"the run service went away: {in_words(error)}")
