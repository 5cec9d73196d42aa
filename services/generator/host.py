"""The engine server and its client, started, watched and replaced as one."""

import asyncio
import logging

from services.generator.engine import Engine
from services.generator.member import Membership
from services.generator.server import EngineServer, ServerError

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3


class EngineHost:
    """At most one engine lives. `watch` replaces it when its server exits or `fail` was called.

    Invariant: while `up` is false, or after a replacement, no version is vouched for until the learner sends weights.
    """

    def __init__(self, server: EngineServer, membership: Membership) -> None:
        self._server = server
        self._membership = membership
        self._engine: Engine | None = None
        self._failed = asyncio.Event()
        self._reason = ""
        self.replacements = 0

    @property
    def up(self) -> bool:
        """Whether the engine may be spoken to."""
        return self._engine is not None and not self._failed.is_set()

    @property
    def engine(self) -> Engine:
        """Raises RuntimeError before `start`. Calls of an engine that was replaced raise EngineError."""
        if self._engine is None:
            raise RuntimeError("the engine was not started")
        return self._engine

    async def start(self) -> None:
        """Raises ServerError when the server does not come up."""
        self._engine = Engine(await self._server.start())
        await self._membership.set_state("ready")

    def fail(self, reason: str) -> None:
        """Have the engine killed and started anew: its weights or its state are not to be trusted."""
        self._membership.serving.clear()
        self._reason = reason
        self._failed.set()

    async def watch(self) -> None:
        """Runs for ever. Raises ServerError when several starts in a row fail."""
        while True:
            reason = await self._next_failure()
            log.warning("SGLang is started anew: %s", reason)
            self.fail(reason)
            await self._server.kill()
            await self.engine.close()
            await self._membership.set_version(None)
            await self._membership.set_state("starting")
            await self._start_again()
            self.replacements += 1

    async def stop(self) -> None:
        await self._server.kill()
        if self._engine is not None:
            await self._engine.close()

    async def _next_failure(self) -> str:
        exited = asyncio.create_task(self._server.wait_exit())
        failed = asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait({exited, failed}, return_when=asyncio.FIRST_COMPLETED)
            return exited.result() if exited.done() else self._reason
        finally:
            exited.cancel()
            failed.cancel()

    async def _start_again(self) -> None:
        for attempt in range(1, MAX_FAILED_STARTS + 1):
            try:
                engine = Engine(await self._server.start())
            except ServerError as error:
                if attempt == MAX_FAILED_STARTS:
                    raise
                log.warning("start %d of %d failed: %s", attempt, MAX_FAILED_STARTS, error)
            else:
                self._engine = engine
                self._failed.clear()
                return await self._membership.set_state("ready")
