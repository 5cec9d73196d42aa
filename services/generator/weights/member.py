"""What a generator tells the run about itself: the version it serves, its state, its work."""

import asyncio
import time
from collections.abc import Callable

from dapo.bus import Bus
from dapo.v1 import messages_pb2 as pb

ROLE = "generator"
FIXED_VERSION = pb.Version(incarnation=0, step=0)
"""Of `model.path` itself, where no learner will send other weights."""


def version_name(version: pb.Version) -> str:
    """A weight version as SGLang carries it."""
    return f"{version.incarnation}.{version.step}"


def parse_version(name: str) -> pb.Version:
    """Inverse of `version_name`. Raises ValueError for a name of another kind."""
    incarnation, step = name.split(".")
    return pb.Version(incarnation=int(incarnation), step=int(step))


class Membership:
    """Invariant: `serving` is set exactly while the engine runs weights of a known version."""

    def __init__(
        self,
        bus: Bus,
        generator_id: str,
        *,
        tensor_parallel: int,
        base_weights: str,
        evaluates: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._started = clock()
        self._record = pb.Member(
            generator_id=generator_id,
            tensor_parallel=tensor_parallel,
            state="starting",
            base_weights=base_weights,
            evaluates=evaluates,
        )
        self._keeps_weights = False
        self._busy_since: float | None = None
        self._busy_s = 0.0
        self._version_changed = asyncio.Condition()
        self.serving = asyncio.Event()

    def request_started(self, count: int = 1) -> None:
        if self._record.running == 0 and count:
            self._busy_since = self._clock()
        self._record.running += count

    def request_ended(self, count: int = 1) -> None:
        self._record.running -= count
        if self._record.running == 0 and self._busy_since is not None:
            self._busy_s += self._clock() - self._busy_since
            self._busy_since = None

    def add_tokens(self, count: int) -> None:
        self._record.generated_tokens += count

    async def set_state(self, state: str) -> None:
        self._record.state = state
        await self.publish()

    async def serve(self, version: pb.Version) -> None:
        """The engine serves `version` from now on."""
        # State, version and event change together: no failure may fall in between.
        self._record.state = "ready"
        self._record.version.CopyFrom(version)
        self.serving.set()
        async with self._version_changed:
            self._version_changed.notify_all()
        await self.publish()

    async def wait_settled(self) -> None:
        """Return once no update is going on."""
        async with self._version_changed:
            await self._version_changed.wait_for(lambda: self._record.state != "updating")

    def serves(self, step: int) -> bool:
        """Whether the engine serves weights of a known version, `step` or later."""
        return self.serving.is_set() and self._record.version.step >= step

    async def keep_weights(self, keep: bool) -> None:
        """Whether to tell the learner that this member takes no weights for now."""
        self._keeps_weights = keep
        await self.publish()

    async def withdraw(self) -> None:
        """The engine is gone; of its successor's weights nobody vouches until the next `serve`."""
        self._keeps_weights = False
        self._record.state = "starting"
        self._record.ClearField("version")
        self.serving.clear()
        async with self._version_changed:
            self._version_changed.notify_all()
        await self.publish()

    async def wait_step(self, step: int) -> None:
        """Return once the engine serves weights of a known version, `step` or later."""
        async with self._version_changed:
            await self._version_changed.wait_for(lambda: self.serves(step))

    def snapshot(self) -> pb.Member:
        """The record now; `busy_s` counts seconds with at least one request running."""
        now = self._clock()
        member = pb.Member()
        member.CopyFrom(self._record)
        if self._keeps_weights and member.state == "ready":
            member.state = "evaluating"
        member.up_s = now - self._started
        member.busy_s = self._busy_s + (now - self._busy_since if self._busy_since is not None else 0.0)
        return member

    async def publish(self) -> None:
        await self._bus.publish_member(self.snapshot())

    async def heartbeat(self) -> None:
        await self._bus.heartbeat(ROLE, self._record.generator_id)
        await self.publish()
