"""What a service has to give to runs: the seam between the queue and machines."""

from collections.abc import Collection, Iterable
from typing import Protocol

from dapo.records.identity import RunIdentity
from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.v1 import run_pb2 as pb
from services.orchestrator.queue.rule import Amounts, Inventory, Verdict, Waiting


class Capacity(Protocol):
    """Within which a service starts runs: its own machine (Machine), or agents on any (Pool)."""

    @property
    def has(self) -> Inventory:
        """What runs share."""

    def needs(self, spec: RunSpec) -> Amounts:
        """Of what they share."""

    def misfits(self, spec: RunSpec) -> list[Problem]:
        """Why a run could never start here."""

    def lacks(self, identity: RunIdentity) -> str:
        """Why a run does not go on here by itself that has been counted elsewhere; "": nothing is against it."""

    def taken(self, under_way: Iterable[RunSpec]) -> Amounts:
        """By these runs, and by others that are not the service's."""

    def room(self, run_id: str, now: RunSpec, wanted: RunSpec, under_way: Iterable[RunSpec]) -> str:
        """Why a run that goes on cannot become what is wanted, beside the others under way; "": it can."""

    def reserve(self, run_id: str, spec: RunSpec) -> None:
        """What the run needs is its own from now on, until its workers have ended or it is `release`d. Raises
        LaunchError."""

    def release(self, run_id: str) -> None: ...

    def view(self, under_way: Collection[RunSpec], queue: Iterable[tuple[Waiting, Verdict]]) -> pb.Machine:
        """What there is and what is free, beside those that wait."""
