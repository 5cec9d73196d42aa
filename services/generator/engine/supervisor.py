"""Starts the engine server, watches it, and replaces it when it exits, hangs or is not to be trusted."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dapo.contracts.events import Alert, Emit
from services.generator.engine.client import EngineClient
from services.generator.engine.responses import EngineError
from services.generator.engine.server import EngineServer, ServerError
from services.generator.instruments import ENGINE_RESTARTS
from services.generator.membership import FIXED_VERSION, Membership

log = logging.getLogger(__name__)

_MAX_FAILED_STARTS = 5
_START_PAUSE_S = 10.0
"""After the first failed start; it doubles with each."""
_SILENCE_S = 60.0
"""After so long without a token of a running request, the engine's health is checked. It is far longer than any pause
of a working engine."""
_ANSWER_S = 60.0
"""How long a silent engine may take to pass a health check. One check of SGLang fails after 20 s, so several are
made."""
_POLL_S = 5.0


class EngineSupervisor:
    """Owns the engine: its server process (EngineServer) and its client (EngineClient), always replaced together.

    `watch` replaces the engine when its server exits, when `fail` was called, or when it is stuck: no token for 60 s
    while requests run and no weight command does, and then no passed health check for 60 s more.

    Invariants: at most one engine lives; from a failure until the learner has sent weights to the new engine,
    `membership.serving` is not set (with `fixed_weights`: until the new engine has started).

    Nothing survives a restart of the process. A start waits for the server's own deadline. The first engine has one
    try, as what keeps it from starting is most likely in the spec; once one has started, its successors have five, with
    pauses of 10 s to 80 s between them.
    """

    def __init__(
        self, server: EngineServer, membership: Membership, emit: Emit, generator_id: str, *, fixed_weights: bool
    ) -> None:
        """`fixed_weights`: no learner sends any, so the weights that the engine loads are those of version 0. Watchers
        are told by `emit` when the engine of `generator_id` does not start again."""
        self._emit = emit
        self._id = generator_id
        self._fixed_weights = fixed_weights
        self._server = server
        self._membership = membership
        self._engine: EngineClient | None = None
        self._failed = asyncio.Event()
        self._reason = ""
        self._commanded = False
        self._commanded_at = 0.0
        self.replacements = 0

    @property
    def up(self) -> bool:
        """Whether there is an engine that has not failed."""
        return self._engine is not None and not self._failed.is_set()

    @property
    def url(self) -> str | None:
        """Of the engine, while there is one that has not failed."""
        return self._engine.url if self._engine is not None and self.up else None

    @property
    def engine(self) -> EngineClient:
        """The current engine. Calls on one that was replaced raise EngineError. Raises RuntimeError before `start`."""
        if self._engine is None:
            raise RuntimeError("the engine was not started")
        return self._engine

    async def start(self) -> None:
        """Start the first engine. Raises ServerError if the server does not start."""
        self._engine = EngineClient(await self._server.start())
        await self._announce()

    async def _announce(self) -> None:
        if self._fixed_weights:
            await self._membership.serve(FIXED_VERSION)
        else:
            await self._membership.set_state("ready")

    @contextmanager
    def command(self) -> Iterator[None]:
        """While a weight command runs, which halts generation, the engine does not count as stuck."""
        self._commanded = True
        try:
            yield
        finally:
            self._commanded = False
            self._commanded_at = time.monotonic()

    def fail(self, reason: str) -> None:
        """Have `watch` kill the engine and start another, as its weights or its state are not to be trusted."""
        self._membership.serving.clear()
        self._reason = reason
        self._failed.set()

    async def is_lost(self, engine: EngineClient, error: EngineError) -> bool:
        """Whether the engine that raised `error` is gone; else it failed this request alone.

        It is replaced when it passes no health check for 60 s. A weight command, which pauses the engine so that it
        passes none, has deadlines of its own and ends the doubt.
        """
        if not await self._answers(engine, lambda: self._is_current(engine) and not self._commanded):
            self.fail(f"it does not answer after: {error}")
        return not self._is_current(engine)

    def _is_current(self, engine: EngineClient) -> bool:
        return self.up and self._engine is engine

    async def watch(self) -> None:
        """Replace failed engines, until cancelled. Raises ServerError after five failed starts in a row."""
        while True:
            reason = await self._next_failure()
            log.warning("restarting SGLang: %s", reason)
            self.fail(reason)
            await self._server.kill()
            await self.engine.close()
            await self._membership.withdraw()
            await self._start_again()

    async def stop(self) -> None:
        await self._server.kill()
        if self._engine is not None:
            await self._engine.close()

    async def _next_failure(self) -> str:
        exited = asyncio.create_task(self._server.wait_exit())
        failed = asyncio.create_task(self._failed.wait())
        stuck = asyncio.create_task(self._wait_stuck())
        try:
            await asyncio.wait({exited, failed, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                return self._reason
            return exited.result() if exited.done() else stuck.result()
        finally:
            exited.cancel()
            failed.cancel()
            stuck.cancel()

    async def _wait_stuck(self) -> str:
        """Return with the reason once the engine neither generates nor passes a health check."""
        while True:
            await asyncio.sleep(_POLL_S)
            # A new token, or a weight command, ends the doubt.
            if not await self._answers(self.engine, lambda: self._silence() >= _SILENCE_S):
                return f"no progress: no token for {self._silence():.0f} s, and no sign of health for {_ANSWER_S:g} s"

    async def _answers(self, engine: EngineClient, doubted: Callable[[], bool]) -> bool:
        """Whether it passes a health check within 60 s, or the doubt ends by itself."""
        asked_at = time.monotonic()
        while doubted() and (left := asked_at + _ANSWER_S - time.monotonic()) > 0:
            if await engine.healthy(timeout_s=left):
                return True
            await asyncio.sleep(min(1.0, left))
        return not doubted()

    def _silence(self) -> float:
        """Seconds without a token while requests ran, not counting weight commands."""
        if self._commanded:
            return 0.0
        return min(self.engine.silence(), time.monotonic() - self._commanded_at)

    async def _start_again(self) -> None:
        for attempt in itertools.count(1):
            try:
                engine = EngineClient(await self._server.start())
            except ServerError as error:
                await self._start_failed(attempt, error)
            else:
                self._engine = engine
                self._failed.clear()
                # Before the learner is told: its first join belongs to the new engine.
                self.replacements += 1
                ENGINE_RESTARTS.inc()
                return await self._announce()

    async def _start_failed(self, attempt: int, error: ServerError) -> None:
        """Pause before the next start. Raises ServerError when there is none."""
        if attempt == _MAX_FAILED_STARTS:
            raise ServerError(f"SGLang did not start {attempt} times in a row; the last time: {error}") from error
        pause_s = _START_PAUSE_S * 2 ** (attempt - 1)
        log.warning("start %d of %d failed, the next in %g s: %s", attempt, _MAX_FAILED_STARTS, pause_s, error)
        if attempt == 1:
            # Without the end of the server's log, which follows.
            reason = str(error).partition("\n")[0].removesuffix(" ends:").removesuffix(", which")
            message = (
                f"{self._id} has lost its engine, which did not start again: {reason}. It is tried "
                f"{_MAX_FAILED_STARTS - 1} more times, after growing pauses; other generators go on"
            )
            await self._emit(Alert(cause="engine_not_started", worker_id=self._id, message=message, pause_s=pause_s))
        await asyncio.sleep(pause_s)
