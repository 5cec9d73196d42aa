"""Keeps the weights of a generator that does nothing but evaluate, for as long as it has prompts."""

import asyncio

from services.generator.weights.member import Membership

NOTICE_S = 1.0
"""The learner looks at its members four times a second: after this time it sends one that keeps its weights none."""


class WeightHold:
    """Invariant: while `held`, the engine's weights do not change, unless the engine itself is lost."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._lock = asyncio.Lock()
        self._held = False

    @property
    def held(self) -> bool:
        return self._held and self._membership.serving.is_set()

    async def hold(self, step: int) -> None:
        """Return once weights of version `step` or later are served and kept."""
        async with self._lock:
            if self.held and self._membership.serves(step):
                return
            await self._let_go()
            while not self._held:
                await self._membership.wait_step(step)
                await self._membership.keep_weights(True)
                await asyncio.sleep(NOTICE_S)
                await self._membership.wait_settled()
                self._held = self._membership.serves(step)

    async def release(self) -> None:
        """There are no prompts: the learner may send what it has sent the others meanwhile."""
        async with self._lock:
            await self._let_go()

    async def _let_go(self) -> None:
        if self._held:
            self._held = False
            await self._membership.keep_weights(False)
