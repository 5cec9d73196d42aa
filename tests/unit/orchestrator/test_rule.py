"""Who leads a run: the rule by itself, and instances of a service that follow it in any order of events."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from dapo.bus.index import Desired, Record
from services.orchestrator.fleet.rule import Action, Folder, judge

OWNERS = ("a", "b", "c")
LEASE = 3
desires = st.sampled_from([None, *Desired])
holders = st.sampled_from([None, *OWNERS])
folders = st.sampled_from(list(Folder))


def record(desired: Desired | None, holder: str | None) -> Record:
    return Record(desired, holder, "", "", "")


@given(desires, holders, folders, st.booleans())
def test_only_a_run_that_is_wanted_and_led_by_nobody_else_is_taken_up(
    desired: Desired | None, holder: str | None, folder: Folder, leads: bool
) -> None:
    action = judge(record(desired, holder), folder, owner="a", leads=leads)
    if action in (Action.LEAD, Action.SETTLE):
        assert desired == Desired.RUNNING
        assert holder in (None, "a")
        assert not leads
    if action == Action.SETTLE:  # under its own lease it is about to go on, though its folder has its former end
        assert holder is None
    assert (action == Action.LEAD) <= (folder == Folder.UNDER_WAY)
    assert (action == Action.STOP) == (leads and desired == Desired.STOPPED)
    assert (action == Action.CANCEL) == (leads and desired == Desired.CANCELLED)


@dataclass
class World:
    """A lease as Redis has it, and instances that may be frozen. Time goes on in ticks."""

    desired: Desired = Desired.RUNNING
    holder: str | None = None
    left: int = 0
    epoch: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    """Of those that believe that they lead."""
    frozen: set[str] = field(default_factory=set)
    written: list[int] = field(default_factory=list)

    def look(self, owner: str) -> None:
        if owner in self.frozen:
            return
        leads = owner in self.epochs
        action = judge(record(self.desired, self.holder), Folder.UNDER_WAY, owner=owner, leads=leads)
        if action == Action.LEAD and self.holder in (None, owner):
            self.epoch += 1
            self.holder, self.left, self.epochs[owner] = owner, LEASE, self.epoch
        elif action == Action.STOP:
            self.write(owner)
            self.epochs.pop(owner, None)
            self.holder = None if self.holder == owner else self.holder

    def write(self, owner: str) -> None:
        """A renewal or any other write: the server takes it of the newest epoch only."""
        if owner in self.frozen or owner not in self.epochs:
            return
        if self.epochs[owner] != self.epoch:
            del self.epochs[owner]
            return
        self.holder, self.left = owner, LEASE
        self.written.append(self.epoch)

    def tick(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.holder = None


events = st.lists(st.tuples(st.sampled_from(["freeze", "wake", "tick", "look", "write"]), st.sampled_from(OWNERS)))


@given(events, st.randoms(use_true_random=False))
def test_whatever_is_frozen_one_leads_and_none_that_was_replaced_writes(steps: list[tuple[str, str]], luck) -> None:
    world = World()
    for what, owner in steps:
        if what == "freeze":
            world.frozen.add(owner)
        elif what == "wake":
            world.frozen.discard(owner)
        elif what == "tick":
            world.tick()
        else:
            getattr(world, what)(owner)
    assert world.written == sorted(world.written), "one that was replaced has written"
    # Those that are awake agree on a leader once a lease has had time to lapse.
    awake = [owner for owner in OWNERS if owner not in world.frozen]
    for _ in range(LEASE + 1):
        world.tick()
        for owner in luck.sample(awake, len(awake)):
            world.write(owner)
            world.look(owner)
    leading = [owner for owner in awake if owner in world.epochs]
    assert leading == ([world.holder] if awake else [])
    world.desired = Desired.STOPPED
    for owner in awake:
        world.look(owner)
    assert not [owner for owner in awake if owner in world.epochs]
