"""Which instance of a service leads a run. Pure: what is known of a run in, what an instance is to do out."""

from enum import Enum, auto

from dapo.bus.index import Desired, Record


class Folder(Enum):
    """What a run's folder says of it."""

    ELSEWHERE = auto()
    """This instance does not have it."""
    UNDER_WAY = auto()
    """The run has no end, or only that of the service that led it."""
    ENDED = auto()
    MOVED = auto()
    """It has gone on with another Redis, which has its latest word."""


class Action(Enum):
    NOTHING = auto()
    LEAD = auto()
    """Take the lease and go on with the run."""
    STOP = auto()
    """End the run that this instance leads, in order."""
    CANCEL = auto()
    """End it at once."""
    SETTLE = auto()
    """Note that nobody is to lead the run any more."""


def judge(record: Record, folder: Folder, *, owner: str, leads: bool) -> Action:
    """`owner`: the name of this instance; `leads`: it goes on with the run at this moment.

    A run that is to go on is led by whoever has its folder and sees that nobody's lease is left; the lease itself says
    who of several comes first.
    """
    if leads:
        ends = {Desired.STOPPED: Action.STOP, Desired.CANCELLED: Action.CANCEL}
        return Action.NOTHING if record.desired is None else ends.get(record.desired, Action.NOTHING)
    if record.desired != Desired.RUNNING or record.holder not in (None, owner):
        return Action.NOTHING
    if folder in (Folder.ENDED, Folder.MOVED):
        # Under a lease of its own the run may be about to go on: its former end is there until it does.
        return Action.SETTLE if record.holder is None else Action.NOTHING
    return Action.LEAD if folder == Folder.UNDER_WAY else Action.NOTHING
