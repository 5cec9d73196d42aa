"""What a run service of a cluster counts: its runs. For the rest a cluster has schedulers, quotas and queues."""

from collections.abc import Callable, Collection, Iterable

from dapo.records.identity import RunIdentity
from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.v1 import run_pb2 as pb
from services.orchestrator.queue.rule import Amounts, Inventory, Verdict, Waiting


class ClusterCapacity:
    """Implements Capacity. A run starts where there are fewer than `runs`; its pods then wait for nodes as the cluster
    has them wait."""

    def __init__(self, runs: int | None = None, misfits: Callable[[RunSpec], list[Problem]] = lambda spec: []) -> None:
        """`runs`: at a time; None: any number. `misfits`: why the launcher could never place a run."""
        self.has = Inventory(runs=runs)
        self._misfits = misfits

    def needs(self, spec: RunSpec) -> Amounts:
        return Amounts()

    def misfits(self, spec: RunSpec) -> list[Problem]:
        return self._misfits(spec)

    def lacks(self, identity: RunIdentity) -> str:
        return ""

    def taken(self, under_way: Iterable[RunSpec]) -> Amounts:
        return Amounts()

    def room(self, run_id: str, now: RunSpec, wanted: RunSpec, under_way: Iterable[RunSpec]) -> str:
        return ""

    def reserve(self, run_id: str, spec: RunSpec) -> None:
        """Nothing: a GPU is a pod's once its node has it."""

    def release(self, run_id: str) -> None:
        """Nothing."""

    def view(self, under_way: Collection[RunSpec], queue: Iterable[tuple[Waiting, Verdict]]) -> pb.Machine:
        """The runs and who waits; of the cluster itself nothing is known here."""
        return pb.Machine(
            runs=pb.RunsUnderWay(most=self.has.runs, under_way=len(under_way)),
            queue=[
                pb.QueuedRun(run_id=one.run_id, position=found.position, priority=one.priority, reason=found.reason)
                for one, found in queue
            ],
        )
