"""What a service asks of a request before it does anything for it."""

import asyncio
from pathlib import Path

from dapo.host.storage import in_words, probe
from dapo.policy import Admission
from dapo.spec.load import check_inputs
from dapo.spec.problem import Problem, SpecError
from dapo.spec.run import RunSpec
from services.orchestrator.fleet.errors import BadField
from services.orchestrator.queue.capacity import Capacity
from services.orchestrator.runs.questions import NoAnswer, check_server

_PROBE_BYTES = 64 << 10
"""More than what a run writes before it starts."""


class Gate:
    """Of one service. `admission` is its policy; None: nothing is refused."""

    def __init__(
        self, admission: Admission | None, state_dir: Path, redis_url: str | None, machine: Capacity | None
    ) -> None:
        """`machine`: where runs wait for room; None: they do not."""
        self._admission = admission
        self._machine = machine
        self._state_dir = state_dir
        self._redis_url = redis_url

    def admit(self, spec: RunSpec) -> RunSpec:
        """Itself. Raises SpecError. What may not be read is not looked for: an answer would tell if it is there."""
        if self._admission is not None and (refused := self._admission.refusals(spec)):
            raise SpecError(refused)
        check_inputs(spec)
        if problems := self.misfits(spec):
            raise SpecError(problems)
        return spec

    def check_folder(self, run_dir: str) -> None:
        """Raises BadField where the folder of a run is not its creator's choice."""
        if run_dir and self._admission is not None:
            raise BadField(
                "run_dir",
                "no folder may be given, this service chooses runs/<id>. Leave run_dir out; labels tell runs apart",
                run_dir,
            )

    def misfits(self, spec: RunSpec) -> list[Problem]:
        """Why it would wait for ever."""
        return [] if self._machine is None else self._machine.misfits(spec)

    def replicas(self, generators: int | None, verifiers: int | None) -> dict[str, int]:
        """By role, those asked for. Raises BadField for a number below 1, SpecError for one that is refused."""
        asked = (("generator", generators), ("verifier", verifiers))
        found = {role: number for role, number in asked if number is not None}
        for role, number in found.items():
            if number < 1:
                raise BadField(f"{role}s", f"a run needs at least one {role}", number)
        if self._admission is not None and (refused := self._admission.refused_replicas(generators, verifiers)):
            raise SpecError(refused)
        return found

    async def check_ready(self) -> None:
        """Raises NoAnswer where the service cannot write to its directory, or its Redis does not answer."""
        if (refused := await asyncio.to_thread(probe, self._state_dir.resolve(), _PROBE_BYTES)) is not None:
            raise NoAnswer(f"the service cannot write to its directory: {in_words(refused)}")
        if self._redis_url is not None:
            await check_server(self._redis_url)
