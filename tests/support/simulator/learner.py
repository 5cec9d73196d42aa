"""`python -m tests.support.simulator.learner`: the real learner, whose weights simulated engines take without a look.

Everything is real but the bytes' way: the weight channel's commands, replies and deadlines are as ever, and a broadcast
returns at once, since the simulated engine that is told to receive it joins no group of gloo's.
"""

from torch import Tensor

from services.learner import __main__ as learner
from services.learner.weights import publisher, transport


class UnheardGroup:
    """In place of WeightGroup: nobody joins, nothing is sent."""

    port = 0

    def __init__(self, name: str, world_size: int, backend: transport.Backend, timeout_s: float, address: str) -> None:
        self.name = name
        self.world_size = world_size
        self.backend = backend

    def join(self, timeout_s: float) -> None: ...

    def broadcast(self, data: Tensor, timeout_s: float) -> None: ...

    def close(self) -> None: ...


if __name__ == "__main__":
    publisher.WeightGroup = UnheardGroup  # type: ignore[assignment,misc]
    learner.main()
