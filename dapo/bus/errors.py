"""What the bus raises. Every message names the thing, its value and the cure."""


class BusError(Exception):
    """Base of everything the bus raises; on its own: a request that the bus refuses as it stands."""


class BusUnavailable(BusError):
    """The server cannot be reached, or is not one the bus can use. What was asked may or may not have been done."""


class BusFull(BusError):
    """The server's memory limit is reached. Nothing of the refused write was stored, nothing stored was lost."""


class Fenced(BusError):
    """A newer holder of the role exists: this one must stop, and has written nothing with this call."""


class LeaseHeld(BusError):
    """Another orchestrator leads the run; the message names it."""


class LedgerError(BusError):
    """A group was asked to take a step that the ledger does not allow."""


class UnknownGroup(BusError):
    """The run has no such group, or it was settled so long ago that its record has left the archive."""


class NoConsumerGroup(BusError):
    """The stream's consumer group has vanished: the server came back without its data."""
