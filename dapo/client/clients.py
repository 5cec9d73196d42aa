"""The two clients, one that waits and one to be awaited: thin, over httpx."""

import asyncio
import functools
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from dapo.client import changes, reads
from dapo.client.errors import error_of
from dapo.client.exchange import Asking, Outcome, Pause, Request, Stream, exchanges
from dapo.client.settings import ClientTls, authorisation, service_url
from dapo.environment import DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE

_IDLE = 20
"""Connections that are kept open for what is asked next."""

P = ParamSpec("P")
T = TypeVar("T")


class Operation(Generic[P, T]):
    """A method of both clients, made of the operation's own function: it returns T, or a coroutine of T."""

    def __init__(self, function: Callable[P, Asking[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, client: "RunClient", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncRunClient", owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    def __get__(self, client: "RunClient | AsyncRunClient | None", owner: type) -> Any:
        return self if client is None else _bound(self._function, client._perform)


class Subscription(Generic[P, T]):
    """The same of a stream: it returns a generator of T, or an asynchronous one. Closing that closes the connection."""

    def __init__(self, function: Callable[P, Stream[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, client: "RunClient", owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: "AsyncRunClient", owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    def __get__(self, client: "RunClient | AsyncRunClient | None", owner: type) -> Any:
        return self if client is None else _bound(self._function, client._follow)


def _bound(function: Callable[P, Any], do: Callable[[Any], Any]) -> Callable[P, Any]:
    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> Any:
        return do(function(*arguments, **options))

    return call


class _Client:
    """What both clients can do. Every method raises ServiceError where the service does not answer within a minute or
    fails, and RefusedRequest where it refuses. A read, and a `create` with an idempotency key, is sent again, twice at
    most, where the connection breaks or the service asks to be asked later."""

    create = Operation(changes.create)
    update = Operation(changes.update)
    stop = Operation(changes.stop)
    cancel = Operation(changes.cancel)
    resume = Operation(changes.resume)
    delete = Operation(changes.delete)
    purge = Operation(changes.purge)
    requeue = Operation(changes.requeue)
    export = Operation(changes.export)

    get = Operation(reads.get)
    list = Operation(reads.list_runs)
    spec = Operation(reads.spec)
    metrics = Operation(reads.metrics)
    pipeline = Operation(reads.pipeline)
    samples = Operation(reads.samples)
    evaluations = Operation(reads.evaluations)
    groups = Operation(reads.groups)
    explain = Operation(reads.explain)
    dead_letters = Operation(reads.dead_letters)
    checkpoints = Operation(reads.checkpoints)
    exports = Operation(reads.exports)
    logs = Operation(reads.logs)
    machine = Operation(reads.machine)
    presets = Operation(reads.presets)
    spec_schema = Operation(reads.spec_schema)
    validate = Operation(reads.validate)
    whoami = Operation(reads.whoami)

    export_file = Subscription(reads.export_file)
    tail = Subscription(reads.tail)
    events = Subscription(reads.events)

    def __init__(self, base_url: str, token: str = "", tls: ClientTls | None = None, *, repeat: bool = True) -> None:
        """`base_url` is e.g. http://127.0.0.1:8400, asked directly whatever proxies there are; `token` is one of the
        service, "" where it wants none; `tls` says how an https service is checked, by the usual authorities else;
        without `repeat` nothing is sent twice.

        Raises SettingsError for a URL, a token or files of `tls` that cannot be used.
        """
        self._repeat = repeat
        self._connect(
            base_url=service_url(base_url),
            verify=tls.context() if tls is not None else True,
            headers=authorisation(token),
            trust_env=False,
            # Each stream holds a connection, and how many one may have is the service's to say.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_IDLE),
        )

    def _connect(self, **options: Any) -> None:
        raise NotImplementedError

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Of the service at DAPO_URL (else http://127.0.0.1:8400), with DAPO_API_TOKEN and, where it is https,
        DAPO_TLS_CA, DAPO_TLS_CERT and DAPO_TLS_KEY."""
        url = environment.get(URL_VARIABLE) or DEFAULT_URL
        return cls(url, environment.get(TOKEN_VARIABLE, ""), ClientTls.of(environment))


class RunClient(_Client):
    """A connection to one run service over REST. Not safe to share between threads."""

    _http: httpx.Client

    def _connect(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    def close(self) -> None:
        """Close the connection; runs go on."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _perform(self, asking: Asking[T]) -> T:
        steps, outcome = exchanges(asking, repeat=self._repeat), None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                return end.value
            outcome = self._do(step)

    def _do(self, step: Request | Pause) -> Outcome:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.send(step.built(self._http))
        except httpx.HTTPError as error:
            return error

    def _follow(self, stream: Stream[T]) -> Generator[T, None, None]:
        decoder = stream.decoder()
        response: httpx.Response | None = None
        try:
            response = self._http.send(stream.request.built(self._http), stream=True)
            if not response.is_success:
                raise error_of(response.status_code, response.read())
            for data in response.iter_bytes():
                yield from decoder.feed(data)
            yield from decoder.end()
        except httpx.HTTPError as error:
            raise stream.error(error) from error
        finally:
            if response is not None:
                response.close()


class AsyncRunClient(_Client):
    """The same for asyncio: methods are awaited, `events` and `tail` read with `async for`. One for an event loop."""

    _http: httpx.AsyncClient

    def _connect(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def close(self) -> None:
        """Close the connections; runs go on."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _perform(self, asking: Asking[T]) -> T:
        steps, outcome = exchanges(asking, repeat=self._repeat), None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                return end.value
            outcome = await self._do(step)

    async def _do(self, step: Request | Pause) -> Outcome:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.send(step.built(self._http))
        except httpx.HTTPError as error:
            return error

    async def _follow(self, stream: Stream[T]) -> AsyncGenerator[T, None]:
        decoder = stream.decoder()
        response: httpx.Response | None = None
        try:
            response = await self._http.send(stream.request.built(self._http), stream=True)
            if not response.is_success:
                raise error_of(response.status_code, await response.aread())
            async for data in response.aiter_bytes():
                for one in decoder.feed(data):
                    yield one
            for one in decoder.end():
                yield one
        except httpx.HTTPError as error:
            raise stream.error(error) from error
        finally:
            if response is not None:
                await response.aclose()
