"""Keeps the weights of an evaluating generator unchanged while it has prompts."""

import asyncio

from services.generator.membership import Membership

_NOTICE_S = 1.0
"""The learner reads the member records four times a second, so after this time it starts no update of a member whose
record says `evaluating`."""


class WeightHold:
    """Asks the learner, by the member record, to send this generator no weights for a while.

    Invariant: while `held`, the engine's weights do not change; the Receiver refuses commands. If the engine is
    replaced, `held` is false until `hold` was called again.

    `hold` waits until the engine serves the wanted version (Membership.wait_step), then one second for the learner to
    see the record, then without limit until an update under way is over. Nothing survives a restart.
    """

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._lock = asyncio.Lock()
        self._held = False

    @property
    def held(self) -> bool:
        return self._held and self._membership.serving.is_set()

    async def hold(self, step: int) -> bool:
        """Return True once weights of version `step` or later are served and held; False if the engine was lost or
        they do not come."""
        async with self._lock:
            if self.held and self._membership.serves(step):
                return True
            await self._let_go()
            while not self._held:
                if not await self._membership.wait_step(step):
                    return False
                await self._membership.keep_weights(True)
                await asyncio.sleep(_NOTICE_S)
                await self._membership.wait_settled()
                self._held = self._membership.serves(step)
            return True

    async def release(self) -> None:
        """Let the learner send weights again."""
        async with self._lock:
            await self._let_go()

    async def _let_go(self) -> None:
        if self._held:
            self._held = False
            await self._membership.keep_weights(False)
