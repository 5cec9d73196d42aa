"""The engine server and its client, started, watched and replaced as one."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.generator.engine.client import Engine
from services.generator.engine.server import EngineServer, ServerError
from services.generator.weights.member import FIXED_VERSION, Membership

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
SILENCE_S = 60.0
"""With requests running and no token for so long, the engine is asked for its health: far longer than any pause of a
working engine, for which the answer costs nothing."""
ANSWER_S = 60.0
"""How long a silent engine may take to say that it is well. SGLang itself gives up on its scheduler after 20 s, so it
is asked more than once."""
POLL_S = 5.0


class EngineSupervisor:
    """At most one engine lives. `watch` replaces it when its server exits or `fail` was called.

    Invariant: while `up` is false, or after a replacement, no version is vouched for until the learner sends weights.
    """

    def __init__(self, server: EngineServer, membership: Membership, *, fixed_weights: bool) -> None:
        """`fixed_weights`: no learner will send any, so those that the engine loads are version 0."""
        self._fixed_weights = fixed_weights
        self._server = server
        self._membership = membership
        self._engine: Engine | None = None
        self._failed = asyncio.Event()
        self._reason = ""
        self._commanded = False
        self._commanded_at = 0.0
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
        await self._announce()

    async def _announce(self) -> None:
        if self._fixed_weights:
            await self._membership.serve(FIXED_VERSION)
        else:
            await self._membership.set_state("ready")

    @contextmanager
    def command(self) -> Iterator[None]:
        """While a weight command runs, silence says nothing: generation is halted, or waits for a collective."""
        self._commanded = True
        try:
            yield
        finally:
            self._commanded = False
            self._commanded_at = time.monotonic()

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
            await self._membership.withdraw()
            await self._start_again()
            self.replacements += 1

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
        """Return, with the reason, once the engine neither generates nor answers, as one that was stopped."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._silence() >= SILENCE_S and not await self._answers():
                return f"no progress: no token for {self._silence():.0f} s, and no sign of health for {ANSWER_S:g} s"

    async def _answers(self) -> bool:
        asked_at = time.monotonic()
        while (left := asked_at + ANSWER_S - time.monotonic()) > 0:
            # A token, or a command that halts generation, ends the question.
            if await self.engine.healthy(timeout_s=left) or self._silence() < SILENCE_S:
                return True
            await asyncio.sleep(min(1.0, left))
        return False

    def _silence(self) -> float:
        """Seconds without a token for which there is no excuse."""
        if self._commanded:
            return 0.0
        return min(self.engine.silence(), time.monotonic() - self._commanded_at)

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
                return await self._announce()
