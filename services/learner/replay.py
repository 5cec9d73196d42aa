"""Whether batches that are trained again give the parameters that they gave before."""

import logging

from dapo.bus.roles import LearnerBus
from dapo.contracts.events import Alert
from services.learner.background import ControlLoop

log = logging.getLogger(__name__)


class Replay:
    """Compares fingerprints (services/learner/step/fingerprint.py) with those of recorded steps. Rank 0 alone has one.

    The first difference is an alert, later ones are only logged: they follow from it. Nothing is refused, because sums
    on GPUs are made in varying order, and so is what another number of ranks adds. What was recorded is read once, when
    the learner starts.
    """

    def __init__(self, bus: LearnerBus, control: ControlLoop, step: int) -> None:
        self._bus = bus
        self._control = control
        self._told = False
        self._recorded = self._read(max(0, step - 1))

    def _read(self, batch: int) -> dict[int, str]:
        """Fingerprints of the recorded steps from batch `batch` on, by batch."""
        found: dict[int, str] = {}
        after = f"{batch}-0"
        while reports := self._control.call(self._bus.batches.read_steps(after, block_s=0)):
            found |= {report.batch: report.fingerprint for _, report in reports if report.fingerprint}
            after, _ = reports[-1]
        return found

    def loaded(self, step: int, fingerprint: str) -> None:
        """A checkpoint of `step` was loaded."""
        self._compare(step - 1, fingerprint, f"the checkpoint of step {step} holds")

    def trained(self, batch: int, fingerprint: str) -> None:
        """A batch was trained, for the first time or again."""
        self._compare(batch, fingerprint, f"step {batch + 1}, trained again, gave")

    def _compare(self, batch: int, fingerprint: str, what: str) -> None:
        recorded = self._recorded.pop(batch, None)
        if recorded is None:
            return
        if recorded == fingerprint:
            log.info("%s the recorded parameters, bit for bit (%s)", what, fingerprint)
            return
        message = (
            f"{what} other parameters than were recorded: fingerprint {fingerprint}, recorded {recorded}. The run goes "
            "on from them. Only on CPUs with the same number of ranks is a replay exact: on GPUs a small difference is "
            "to be expected"
        )
        log.warning("%s", message)
        if not self._told:
            self._told = True
            self._control.call(self._bus.runs.emit(Alert(cause="replay_differs", batch=batch, message=message)))
