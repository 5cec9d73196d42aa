"""Redis, and nothing else speaks Redis: streams, groups and their ledger, the batch log, payloads, weight commands."""

from dapo.bus.bus import Bus
from dapo.bus.errors import BusError, BusFull, BusUnavailable, Fenced, LedgerError, UnknownGroup
from dapo.bus.ledger import GroupState
from dapo.bus.parts.groups import Outcome, Refill, Settlement
from dapo.bus.parts.payloads import RETRIES, attempt_number
from dapo.bus.parts.records import GroupRecord
from dapo.bus.parts.streams import Delivery

__all__ = [
    "RETRIES",
    "Bus",
    "BusError",
    "BusFull",
    "BusUnavailable",
    "Delivery",
    "Fenced",
    "GroupRecord",
    "GroupState",
    "LedgerError",
    "Outcome",
    "Refill",
    "Settlement",
    "UnknownGroup",
    "attempt_number",
]
