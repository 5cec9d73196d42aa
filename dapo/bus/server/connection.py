"""One Redis or Valkey server: connections, scripts, and the translation of its errors into the bus's own."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Self, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dapo.bus.errors import BusError, BusFull, BusUnavailable, Fenced, LedgerError, NoConsumerGroup
from dapo.bus.server import scripts
from dapo.bus.server.outage import OutageClock, PatientRetry
from dapo.redaction import redact_url

log = logging.getLogger(__name__)

T = TypeVar("T")
Argument = str | bytes | int | float

BLOCK_SLICE_S = 5.0
"""Longest single blocking read; longer waits are made of several, so that a cut connection is noticed."""
_SOCKET_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 5.0
_CONNECTIONS = 4096
"""Far more than any process has commands under way (the library's own bound, 100, is not). Its pool that waits for a
free connection would lose wake-ups to cancellations on Python 3.11 (cpython issue 112202)."""
_CANCEL_AGAIN_S = 0.1
_OLDEST = 7
_KEEPING = "noeviction"


class Term(NamedTuple):
    """For whom a process acts: the holder of a role, as long as nobody has taken that over."""

    role: str
    epoch: int


NO_TERM = Term("", 0)


class Server:
    """All methods raise BusUnavailable, BusFull, Fenced, LedgerError or BusError, never an error of the client library.

    `client` repeats a command whose connection broke, so it is for reads, for writes that change nothing the second
    time, and for scripts that may be repeated. `once` never repeats: what hands out entries, or is a script that may
    not be repeated, fails with BusUnavailable, and may or may not have been done.

    A server that is away is waited for, up to `outage_s` seconds: by `client` itself, and by `wait_until_back` for
    those whose command may not be repeated. Only `check` fails at once.

    Every script is refused (Fenced) once `term` is over.
    """

    def __init__(self, url: str, outage_s: float) -> None:
        self.url = url
        self.shown = redact_url(url)
        self.term = NO_TERM
        self.outages = OutageClock(self.shown, outage_s)
        self.client = self._open(PatientRetry(self.outages))
        self.once = self._open(Retry(NoBackoff(), 0))

    @classmethod
    async def connect(cls, url: str, outage_s: float) -> Self:
        """One that answers and has the scripts. Raises BusUnavailable, as `check`."""
        server = cls(url, outage_s)
        try:
            await server.check()
            await server.load_scripts()
        except BaseException:
            await server.close()
            raise
        return server

    def _open(self, retry: Retry) -> "Redis":
        try:
            return Redis.from_url(
                self.url,
                max_connections=_CONNECTIONS,
                protocol=2,
                retry=retry,
                socket_timeout=_SOCKET_TIMEOUT_S,
                socket_connect_timeout=_CONNECT_TIMEOUT_S,
                socket_keepalive=True,
                decode_responses=False,
            )
        except ValueError:  # Its text may quote a password that stands where the port should.
            raise BusUnavailable(
                f"{self.shown!r} is no Redis URL. Write redis://[user:password@]host:port/database,"
                " rediss:// for TLS, or unix://path"
            ) from None

    async def check(self) -> None:
        """Connects. Raises BusUnavailable when nothing answers, or the server is older than Redis 7 or evicts keys."""
        info = await self.run(self.once.info, "server")
        version = str(info.get("redis_version", "0"))
        if int(version.split(".")[0]) < _OLDEST:
            raise BusUnavailable(
                f"The server at {self.shown} is Redis {version}: the bus needs Redis ≥ 7.0 or Valkey ≥ 7.2."
                " Upgrade it, or leave resources.redis.url empty to have an embedded Valkey started"
            )
        policy = (await self.run(self.once.info, "memory")).get("maxmemory_policy", _KEEPING)
        if policy != _KEEPING:
            raise BusUnavailable(
                f"The server at {self.shown} has maxmemory-policy {policy}: it would drop the run's data when its"
                f" memory is full. Set it to {_KEEPING} (CONFIG SET maxmemory-policy {_KEEPING})"
            )

    async def load_scripts(self) -> None:
        for text in scripts.sources().values():
            await self.run(self.client.script_load, text)

    async def wait_until_back(self) -> None:
        """Return once the server answers. Raises BusUnavailable after `outage_s`."""
        await self.run(self.client.ping)

    async def close(self) -> None:
        """Commands under way fail, also those that wait for the server to come back."""
        self.outages.limit_s = 0.0
        await self.client.aclose()
        await self.once.aclose()

    async def promptly(self, call: Callable[[], Awaitable[T]], within_s: float) -> T:
        """What may be repeated and must not wait for a connection that has gone silent, as behind a firewall that has
        forgotten it: after so long it is made again, on another one. Raises as `call` does, by itself when the outage
        has lasted `outage_s`."""
        deadline = time.monotonic() + self.outages.limit_s
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(within_s):
                    return await call()
            except TimeoutError:
                log.warning("no answer from %s for %.1f s: asked again on another connection", self.shown, within_s)
        return await call()

    async def run(self, command: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Awaits a client command, translating its errors. A cancellation always ends it."""
        call = asyncio.ensure_future(command(*args, **options))
        try:
            await asyncio.wait({call})
        except asyncio.CancelledError:
            await _end(call)
            raise
        try:
            return call.result()
        except (RedisError, OSError) as error:
            self._raise(error)

    async def script(self, name: str, prefix: str, *args: Argument) -> Any:
        """One script; its reply."""
        return (await self.scripts(name, prefix, [args]))[0]

    async def scripts(self, name: str, prefix: str, calls: Sequence[Sequence[Argument]]) -> list[Any]:
        """The script once for each list of arguments, in one pipeline. Raises the first error after all have run."""
        if not calls:
            return []
        replies = await self._evaluate(name, prefix, calls)
        lost = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lost:  # the server was restarted, or its scripts flushed
            await self.load_scripts()
            for at, reply in zip(lost, await self._evaluate(name, prefix, [calls[at] for at in lost]), strict=True):
                replies[at] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                self._raise(reply)
        return replies

    async def _evaluate(self, name: str, prefix: str, calls: Sequence[Sequence[Argument]]) -> list[Any]:
        connections = self.client if scripts.SCRIPTS[name].repeatable else self.once
        pipeline = connections.pipeline(transaction=False)
        digest = scripts.digest(name)
        for args in calls:
            pipeline.execute_command("EVALSHA", digest, 1, prefix, *self.term, *args)
        return await self.run(pipeline.execute, raise_on_error=False)

    async def small_write(self, prefix: str, command: str, *args: Argument) -> Any:
        """A small write that must succeed even where memory is full. Raises ValueError for a command that might change
        something when it is repeated."""
        return await self.script("small_write", prefix, _small(command), *args)

    async def fenced_write(self, prefix: str, role: str, epoch: int, command: str, *args: Argument) -> Any:
        """As `small_write`, where `epoch` is the newest of `role`. Raises Fenced."""
        return await self.script("fenced_write", prefix, role, epoch, _small(command), *args)

    def _raise(self, error: Exception) -> NoReturn:
        text = str(error)
        if isinstance(error, OutOfMemoryError):
            raise BusFull(
                f"The server at {self.shown} has reached its own memory limit (maxmemory), of all that is stored there,"
                " and refused a write; nothing was lost. Raise it (an embedded server's follows"
                " resources.redis.memory_mib), or checkpoint more often to free payloads"
            ) from error
        if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
            raise BusUnavailable(
                f"No Redis at {self.shown} ({text}). Start the server, or correct resources.redis.url / REDIS_URL;"
                " leave both empty to have an embedded Valkey started. An outage is waited out for"
                f" resources.redis.outage_s = {self.outages.limit_s:g} s"
            ) from error
        code, _, rest = text.partition(" ")
        if code == "FENCED":
            raise Fenced(f"{rest}: another process has taken this role over; this one must stop") from error
        if code == "LEDGER":
            raise LedgerError(rest) from error
        if code == "NOGROUP":
            raise NoConsumerGroup(f"{rest}. The server at {self.shown} has lost the run: resume it") from error
        if code == "MISCONF":
            raise BusUnavailable(
                f"The server at {self.shown} cannot write its data to its disk, and takes no more until it can. Free "
                f"space there, or correct its settings ({rest})"
            ) from error
        if isinstance(error, ResponseError) and code in ("BATCH", "STEP", "CHECKPOINT"):
            raise BusError(text) from error
        raise BusError(f"The server at {self.shown} refused a request: {text}") from error


async def _end(call: asyncio.Future[Any]) -> None:
    """Cancels a command until it heeds it; its outcome, if it had one, is lost.

    The client sends through asyncio.wait_for, which before Python 3.12 loses a cancellation that comes just as the send
    completes; the command would then wait for its reply, and from a server that hangs none comes.
    """
    while not call.done():
        call.cancel()
        await asyncio.wait({call}, timeout=_CANCEL_AGAIN_S)
    if not call.cancelled():
        call.exception()


async def block(read: Callable[[int | None], Awaitable[list[T]]], block_s: float) -> list[T]:
    """Repeats `read(block in ms, or None not to block)` until it returns something or `block_s` have passed."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + block_s
    while True:
        left = min(deadline - clock(), BLOCK_SLICE_S)
        found = await read(max(1, round(left * 1000)) if left > 0 else None)
        if found or clock() >= deadline:
            return found


def _small(command: str) -> str:
    """Raises ValueError for a command that might change something when it is repeated."""
    if command not in scripts.SMALL_WRITES:
        raise ValueError(f"{command} is no small write: use {', '.join(sorted(scripts.SMALL_WRITES))}, or a script")
    return command
