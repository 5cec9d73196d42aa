"""One rank's part of the weight channel, for the learner's main thread."""

import torch

from dapo.bus.roles import LearnerBus
from dapo.host.addresses import machine_name
from dapo.spec.tree.training import WeightSyncSpec
from services.learner.background import ControlLoop
from services.learner.distributed import Ranks, gather_texts
from services.learner.weights.assignment import sender_ranks
from services.learner.weights.buckets import WeightBuckets
from services.learner.weights.orders import OrderedSender, RemoteSender, Reports
from services.learner.weights.publisher import Publisher
from services.learner.weights.sender import Round, Sender

_REFRESH_S = 0.25


class Distribution:
    """Sends the learner's parameters to every generator: of each generator's version one rank is the sender, and all
    ranks that may send (`weight_sync.sender_share`) do so at a time. One on each rank; its parts live on the control
    loop:

    - `sender` (Sender, on ranks that send): the weight groups of this rank's members, and a pump for each;
    - `publisher` (Publisher, on rank 0): who joins, which rank sends to whom (assignment.py), what is published; it
      has other ranks act by a RemoteSender for each, whose orders and Reports go over the bus;
    - `ordered` (OrderedSender, on other ranks that send): carries the orders out.

    Promises: what each member gets are the same bytes, whichever rank sends them. At ZeRO 0 to 2 every member takes the
    buckets at its own pace, so that a slow one delays the end of `publish` alone; under ZeRO 3 all wait at each bucket
    for the slowest, whose queue is full, until it is given up. Memory for buckets is bounded at any stage, see Sender.

    Nothing survives a restart. A rank that ends takes the learner with it, and the learner starts anew as a whole. All
    ranks construct it together, and call `publish` together.
    """

    def __init__(
        self,
        bus: LearnerBus,
        control: ControlLoop,
        ranks: Ranks,
        epoch: int,
        spec: WeightSyncSpec,
        buckets: WeightBuckets,
        *,
        address: str,
    ) -> None:
        """`address`: where members reach this rank."""
        self._control = control
        self._ranks = ranks
        self._buckets = buckets
        self._sender: Sender | None = None
        self._publisher: Publisher | None = None
        self._ordered: OrderedSender | None = None
        hosts = gather_texts(machine_name())
        senders = sender_ranks(hosts, spec.sender_share)
        if ranks.rank not in senders:
            return
        self._sender = Sender(
            *(bus, epoch, spec, buckets.specs()),
            address=address,
            devices=ranks.device_names,
            rank=ranks.rank,
            ranks=ranks.world_size,
        )
        if ranks.leads:
            reports = Reports(bus, epoch)
            others = {
                rank: RemoteSender(
                    *(reports, rank),
                    join_s=spec.join_deadline_s,
                    update_s=spec.ready_s + spec.update_deadline_s,
                )
                for rank in senders[1:]
            }
            self._publisher = Publisher(bus, epoch, spec, self._sender, others, hosts)
            control.repeat(_REFRESH_S, self._publisher.refresh)
            if others:
                control.repeat(0.0, reports.listen)
        else:
            self._ordered = OrderedSender(bus, epoch, ranks.rank, self._sender)
            control.repeat(0.0, self._ordered.listen)

    def waiting(self, step: int) -> bool:
        """Whether a joined member does not serve this version yet. On rank 0."""
        assert self._publisher is not None
        return self._control.call(self._publisher.waiting(step))

    def publish(self, step: int, *, measures: bool = False) -> float | None:
        """Bring every joined member to the current parameters, which are version `step`.

        On rank 0 the longest pause in seconds, None where the version was not published; None on other ranks, which
        return once their own members have it. `measures`: the buckets' rounding is wanted on this rank, too.
        """
        self._buckets.renew()
        begun = self._begin(step)
        self._send(begun, measures=measures)
        if measures:
            self._buckets.measure_rest()
        if begun is not None:
            self._control.call(begun.ended())
        return None if self._publisher is None else self._control.call(self._publisher.finish(step))

    def _begin(self, step: int) -> Round | None:
        if self._publisher is not None:
            return self._control.call(self._publisher.begin(step))
        return None if self._ordered is None else self._control.call(self._ordered.begun(step))

    def _send(self, begun: Round | None, *, measures: bool) -> None:
        device = torch.device("cpu")
        if self._sender is not None and self._sender.device == "cuda":
            device = self._ranks.device
        sends = begun is not None and bool(begun.updates)
        if self._buckets.gathers:
            for bucket in self._buckets.gathered(device, wanted=sends or measures):
                if begun is not None:
                    self._control.call(begun.feed(bucket))
        elif sends:
            assert begun is not None
            self._control.call(begun.draw(lambda position: self._buckets.make(position, device)))
