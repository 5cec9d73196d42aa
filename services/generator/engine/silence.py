"""Which requests an engine has lost: those it says nothing of while it works and none of its requests waits."""

import time
from collections.abc import Callable


class Silence:
    """When each running request was last heard of. Pure but for its clock.

    A request is lost once nothing came of it for a stated time in which the engine was not halted and, whenever it was
    asked, had no request waiting for room: those that wait, after a retraction too, are silent and well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, float] = {}
        self._excused = clock()
        self._halted = False

    def heard(self, rid: str) -> None:
        """The request begins, or a token of it came."""
        self._heard[rid] = self._clock()

    def ended(self, rid: str) -> None:
        self._heard.pop(rid, None)

    def halt(self) -> None:
        """Until `excuse`, all requests are silent with reason."""
        self._halted = True

    def excuse(self) -> None:
        """Whatever was silent up to now had a reason to be."""
        self._halted = False
        self._excused = self._clock()

    def longer_than(self, limit_s: float) -> list[str]:
        """Ids of the requests that were silent for so long, without a reason."""
        now = self._clock()
        if self._halted or now - self._excused < limit_s:
            return []
        return [rid for rid, at in self._heard.items() if now - at >= limit_s]
