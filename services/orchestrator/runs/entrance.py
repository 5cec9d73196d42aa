"""How a process comes to lead a run: from the run's Redis to what others see of it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from dapo.bus.errors import LeaseHeld
from dapo.bus.index import Desired
from dapo.bus.roles import OrchestratorBus
from dapo.spec.run import RunSpec
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.questions import NoAnswer, answering
from services.orchestrator.runs.redis import RunRedis
from services.orchestrator.runs.tenure import Tenure


def record_of(spec: RunSpec, recorder: Recorder) -> tuple[str, str, str]:
    """What the run's record has of its spec, its folder and its beginning."""
    return spec.model_dump_json(), str(recorder.run_dir), recorder.identity.created_at


class Entrance:
    """Of one start of a run.

    Promises: what is wanted of the run is set in the moment in which it is led, so a stop that comes later stands, and
    one that comes while another's lease is waited for, too.
    Once it has begun, whoever finds it without a leader goes on with it.
    """

    def __init__(
        self,
        redis: RunRedis,
        tenure: Tenure,
        recorder: Recorder,
        spec: RunSpec,
        previous: RunSpec | None,
        desired: Desired | None,
        enlist: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """As in RunDriver."""
        self._redis = redis
        self._tenure = tenure
        self._recorder = recorder
        self._spec = spec
        self._previous = previous
        self._desired = desired
        self._enlist = enlist
        self._begun = False

    async def enter(self, patience_s: float) -> None:
        """Lead the run and begin it, before its driver starts. `patience_s`: how long another's lease is waited for.

        Raises NoAnswer where Redis does not answer within seconds, LeaseHeld, RunDirError, OSError; `withdraw` then.
        """
        async with answering():
            bus = await self._redis.open()
        held: LeaseHeld | None = None
        async with answering(patience_s):
            try:
                await self._tenure.take(bus, patience_s, self._desired)
            except LeaseHeld as error:
                held = error
        if held is not None:
            raise held
        async with answering():
            await self._tell(bus)
        await self._note()

    async def withdraw(self) -> None:
        """Where it could not `enter`: nobody is to lead the run."""
        if self._tenure.epoch and (bus := self._redis.bus) is not None:
            with suppress(NoAnswer):
                async with answering():
                    await bus.runs.want(Desired.STOPPED, self._tenure.epoch)
        await self._tenure.release()
        await self._redis.close(succeeded=False)
        self._recorder.close()

    async def lead(self, redis_s: float, lease_s: float) -> OrchestratorBus:
        """Lead the run, if it was not entered; its Redis is waited for so long, then another's lease. Raises LeaseHeld,
        BusError, OSError."""
        if (bus := self._redis.bus) is None:
            bus = await self._redis.open(redis_s)
            await self._tenure.take(bus, lease_s, self._desired)
        return bus

    async def begin(self, bus: OrchestratorBus) -> None:
        """Unless it was entered: before anything is read for it, the run goes on for all to see. Raises BusError,
        RunDirError, OSError."""
        if not self._begun:
            await self._tell(bus)
            await self._note()

    async def _tell(self, bus: OrchestratorBus) -> None:
        if self._previous is None or "spec" not in await bus.runs.read():
            # Of a run that goes on, a Redis that has lost it does not have the latest word.
            history = "" if self._previous is not None else self._recorder.identity.history
            await bus.runs.create(*record_of(self._spec, self._recorder), history)
        if self._enlist is not None:
            await self._enlist()

    async def _note(self) -> None:
        """Its former end goes last: until then, a start that comes to nothing changes nothing. From then on the run
        goes on with this spec, whoever leads it, unless that is refused."""
        recorder, listed = self._recorder, self._enlist is not None
        if self._previous is not None:
            await recorder.keep_next_spec(None if self._spec == self._previous else self._spec)
        await recorder.keep_identity(recorder.identity._replace(taken_up=listed, begun=True, queued_at=""))
        if self._previous is not None:
            await recorder.begin()
        self._begun = True
