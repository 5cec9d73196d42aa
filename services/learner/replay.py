"""Whether batches that are trained again give the parameters that they gave before."""

import logging

from dapo.bus.roles import LearnerBus
from dapo.contracts.events import Alert
from dapo.v1 import messages_pb2 as pb
from services.learner.background import ControlLoop

log = logging.getLogger(__name__)


class Replay:
    """Compares fingerprints (services/learner/step/fingerprint.py) with those of recorded steps. Rank 0 alone has one.

    The first difference is an alert, later ones are only logged: they follow from it. Nothing is refused, because sums
    on GPUs are made in varying order, and so is what another number of ranks adds. A checkpoint of a step that was
    trained again by another number of ranks than was recorded is no alert: the step was one. What was recorded is read
    once, when the learner starts.
    """

    def __init__(self, bus: LearnerBus, control: ControlLoop, step: int, ranks: int) -> None:
        self._bus = bus
        self._control = control
        self._ranks = ranks
        self._told = False
        self._recorded = self._read(max(0, step - 1))

    def _read(self, batch: int) -> dict[int, pb.StepReport]:
        """The recorded steps from batch `batch` on, by batch."""
        found: dict[int, pb.StepReport] = {}
        after = f"{batch}-0"
        while reports := self._control.call(self._bus.batches.read_steps(after, block_s=0)):
            found |= {report.batch: report for _, report in reports if report.fingerprint}
            after, _ = reports[-1]
        return found

    def loaded(self, step: int, fingerprint: str, ranks: int) -> None:
        """A checkpoint of `step`, written by so many ranks, was loaded."""
        recorded = self._recorded.get(step - 1)
        expected = recorded is not None and _ranks_differ(recorded, ranks)
        self._compare(step - 1, fingerprint, ranks, f"the checkpoint of step {step} holds", alerts=not expected)

    def trained(self, batch: int, fingerprint: str) -> None:
        """A batch was trained, for the first time or again."""
        self._compare(batch, fingerprint, self._ranks, f"step {batch + 1}, trained again, gave", alerts=True)

    def _compare(self, batch: int, fingerprint: str, ranks: int, what: str, *, alerts: bool) -> None:
        recorded = self._recorded.pop(batch, None)
        if recorded is None:
            return
        if recorded.fingerprint == fingerprint:
            log.info("%s the recorded parameters, bit for bit (%s)", what, fingerprint)
            return
        reason = "Only on CPUs with the same number of ranks is a replay exact: on GPUs"
        if _ranks_differ(recorded, ranks):
            reason = f"The step was recorded with ranks: {recorded.ranks}, now it was trained with ranks: {ranks}, so"
        message = (
            f"{what} other parameters than were recorded: fingerprint {fingerprint}, recorded {recorded.fingerprint}. "
            f"The run goes on from them. {reason} a small difference is to be expected"
        )
        log.warning("%s", message)
        if alerts and not self._told:
            self._told = True
            self._control.call(self._bus.runs.emit(Alert(cause="replay_differs", batch=batch, message=message)))


def _ranks_differ(recorded: pb.StepReport, ranks: int) -> bool:
    """Older releases did not record them."""
    return recorded.ranks not in (0, ranks)
