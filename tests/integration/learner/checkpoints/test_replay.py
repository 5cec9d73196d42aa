"""What is said where parameters are not those that were recorded, by the numbers of ranks."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from dapo.bus import Bus  # noqa: E402
from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from services.learner.background import ControlLoop  # noqa: E402
from services.learner.replay import Replay  # noqa: E402
from tests.support.bus import RUN, make_kept, read_alerts  # noqa: E402
from tests.support.learner.processes import GROUP_SIZE, make_batch  # noqa: E402

THEN, NOW = "0123456789abcdef", "fedcba9876543210"
NOISE = "Only on CPUs with the same number of ranks is a replay exact: on GPUs a small difference is to be expected"
OTHERS = (
    "The step was recorded with ranks: 1, now it was trained with ranks: 2, so a small difference is to be expected"
)


def recorded(valkey: EmbeddedValkey, ranks: int) -> tuple[Bus, ControlLoop]:
    """A run of two steps, trained with so many ranks; 0 as older releases recorded them."""
    control = ControlLoop()
    bus = control.call(Bus.connect(valkey.url, RUN))
    orchestrator = control.call(make_kept(bus, 4, GROUP_SIZE))
    learner = control.call(bus.lease.acquire("learner"))
    for number in range(2):
        batch = make_batch(bus, number)
        control.call(bus.batches.cut(batch, orchestrator))
        report = pb.StepReport(batch=number, fingerprint=THEN, ranks=ranks)
        control.call(bus.batches.record_step(report, [group.group_id for group in batch.groups], learner))
    return bus, control


@pytest.mark.parametrize(("before", "now", "reason"), [(1, 1, NOISE), (0, 2, NOISE), (1, 2, OTHERS)])
def test_a_step_that_comes_out_otherwise_is_told_with_its_reason(
    valkey: EmbeddedValkey, before: int, now: int, reason: str
) -> None:
    bus, control = recorded(valkey, before)
    replay = Replay(bus, control, step=0, ranks=now)
    for batch in range(2):
        replay.trained(batch, NOW)
    (alert,) = control.call(read_alerts(bus))
    assert (alert["kind"], alert["batch"]) == ("replay_differs", 0)
    assert alert["message"] == (
        f"step 1, trained again, gave other parameters than were recorded: fingerprint {NOW}, recorded {THEN}. The run "
        f"goes on from them. {reason}"
    )


@pytest.mark.parametrize(("before", "wrote", "alerts"), [(1, 1, 1), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_a_checkpoint_of_what_other_ranks_trained_again_is_no_alert(
    valkey: EmbeddedValkey, before: int, wrote: int, alerts: int
) -> None:
    bus, control = recorded(valkey, before)
    replay = Replay(bus, control, step=2, ranks=1)
    replay.loaded(2, NOW, wrote)
    assert len(control.call(read_alerts(bus))) == alerts
