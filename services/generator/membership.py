"""The generator's member record on the bus, and the events that wait for changes of it."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from dapo.bus.roles import GeneratorBus
from dapo.host.addresses import machine_name
from dapo.v1 import messages_pb2 as pb
from services.generator.instruments import BUSY_SECONDS, REQUESTS_RUNNING, SERVING, TOKENS, WEIGHT_VERSION

ROLE = "generator"
_STEP_S = 10.0
"""A version is published only once all members that have joined serve it, so one that lacks it was left out by the
learner, and it is not known for how long."""
FIXED_VERSION = pb.Version(incarnation=0, step=0)
"""Of the weights in `model.path`, where no learner sends any."""


def version_name(version: pb.Version) -> str:
    """A weight version as SGLang carries it."""
    return f"{version.incarnation}.{version.step}"


def parse_version(name: str) -> pb.Version:
    """Inverse of `version_name`. Raises ValueError for any other name."""
    incarnation, step = name.split(".")
    return pb.Version(incarnation=int(incarnation), step=int(step))


class Membership:
    """What this generator says of itself: state, weight version, load, and whether it takes weight updates.

    States: `starting` (no engine), `ready` (an engine, with or without a version), `updating` (weights are being sent);
    a ready member that keeps its weights is published as `evaluating`. The learner reads the record to decide whom it
    sends weights to, the orchestrator to count work.

    Set by EngineSupervisor (`set_state`, `withdraw`, `serve` of fixed weights), Receiver (`set_state`, `serve`) and
    WeightHold (`keep_weights`). Every change is published at once; `heartbeat` publishes again every 2 s.

    Invariants: while `serving` is set, the engine serves weights of the version in the record; state, version
    and `serving` change without an await between them.

    Nothing survives a restart: a new process starts as `starting`, without a version. `wait_current` and `wait_settled`
    wait without limit, `wait_step` for 10 s.
    """

    def __init__(
        self,
        bus: GeneratorBus,
        generator_id: str,
        *,
        tensor_parallel: int,
        base_weights: str,
        evaluates: bool = False,
        devices: Sequence[str] = (),
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
            devices=devices,
            host=machine_name(),
        )
        self._keeps_weights = False
        self._busy_since: float | None = None
        self._busy_s = 0.0
        self._version_changed = asyncio.Condition()
        self._behind = False
        self.serving = asyncio.Event()
        self._counted_busy_s = 0.0
        SERVING.set_function(lambda: float(self.serving.is_set()))
        WEIGHT_VERSION.set_function(lambda: self._record.version.step if self.serving.is_set() else math.nan)
        REQUESTS_RUNNING.set_function(lambda: self._record.running)

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
        TOKENS.inc(count)

    async def set_state(self, state: str) -> None:
        self._record.state = state
        await self.publish()

    async def serve(self, version: pb.Version) -> None:
        """The engine serves `version` from now on."""
        # Without an await in between, so that no failure of the engine falls between them.
        self._record.state = "ready"
        self._record.version.CopyFrom(version)
        self._behind = False
        self.serving.set()
        async with self._version_changed:
            self._version_changed.notify_all()
        await self.publish()

    async def wait_settled(self) -> None:
        """Return once no weight update is under way."""
        async with self._version_changed:
            await self._version_changed.wait_for(lambda: self._record.state != "updating")

    @property
    def version(self) -> str:
        """Name of the version in the record."""
        return version_name(self._record.version)

    def serves(self, step: int) -> bool:
        """Whether the engine serves weights of a known version, `step` or later."""
        return self.serving.is_set() and self._record.version.step >= step

    async def keep_weights(self, keep: bool) -> None:
        """Tell the learner whether this member refuses weight updates for now."""
        self._keeps_weights = keep
        await self.publish()

    async def withdraw(self) -> None:
        """The engine is gone. The next one's version is unknown until `serve`."""
        self._keeps_weights = False
        self._record.state = "starting"
        self._record.ClearField("version")
        self.serving.clear()
        async with self._version_changed:
            self._version_changed.notify_all()
        await self.publish()

    async def wait_step(self, step: int) -> bool:
        """Return True once the engine serves weights of a known version, `step` or later; False if it was lost, or was
        left behind: after 10 s. Then `wait_current` waits for the next weights."""
        try:
            async with asyncio.timeout(_STEP_S), self._version_changed:
                await self._version_changed.wait_for(
                    lambda: self.serves(step) or self._behind or not self.serving.is_set()
                )
        except TimeoutError:
            self._behind = not self.serves(step)
        return self.serves(step)

    async def wait_current(self) -> None:
        """Return once the engine serves weights, newer ones than those that were found too old, and no update is under
        way."""
        async with self._version_changed:
            await self._version_changed.wait_for(
                lambda: self.serving.is_set() and not self._behind and self._record.state != "updating"
            )

    def snapshot(self) -> pb.Member:
        """The record as published. `busy_s` counts seconds with at least one request running, `up_s` all seconds."""
        now = self._clock()
        member = pb.Member()
        member.CopyFrom(self._record)
        if self._keeps_weights and member.state == "ready":
            member.state = "evaluating"
        member.up_s = now - self._started
        member.busy_s = self._busy_s + (now - self._busy_since if self._busy_since is not None else 0.0)
        return member

    async def publish(self) -> None:
        member = self.snapshot()
        BUSY_SECONDS.inc(max(0.0, member.busy_s - self._counted_busy_s))
        self._counted_busy_s = member.busy_s
        await self._bus.weights.publish_member(member)

    async def heartbeat(self) -> None:
        await self._bus.registry.beat(ROLE, self._record.generator_id)
        await self.publish()
