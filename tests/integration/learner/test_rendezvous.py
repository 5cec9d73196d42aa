"""Learner ranks that look for each other."""

import asyncio

import pytest

pytest.importorskip("torch")

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from services.learner import rendezvous
from services.learner.background import ControlLoop
from services.learner.rendezvous import RendezvousError, announce_store, find_store, open_store

RUN = "meeting"


@pytest.fixture
def control() -> ControlLoop:
    return ControlLoop()


@pytest.fixture
def bus(valkey: EmbeddedValkey, control: ControlLoop):
    opened = control.call(Bus.connect(valkey.url, RUN))
    yield opened
    control.call(opened.close())


def test_a_rank_finds_the_store_that_rank_0_opened(bus: Bus, control: ControlLoop) -> None:
    store, where = open_store("127.0.0.2", 2)
    assert where.startswith("127.0.0.2:")
    with control.beside(announce_store(bus, where)):
        other = find_store(control, bus, 2)
    store.set("hello", "there")
    assert other.get("hello") == b"there"


def test_the_store_of_a_dead_predecessor_is_passed_over(bus: Bus, control: ControlLoop) -> None:
    control.call(bus.registry.announce("learner-store", "127.0.0.2:1", ttl_s=1.0))
    store, where = open_store("127.0.0.1", 2)

    async def announce_later() -> None:
        await asyncio.sleep(1.5)
        await announce_store(bus, where)

    with control.beside(announce_later()):
        other = find_store(control, bus, 2)
    store.set("hello", "there")
    assert other.get("hello") == b"there"


def test_a_rank_0_that_never_comes_is_named_in_time(
    bus: Bus, control: ControlLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "_WAIT_S", 0.5)
    with pytest.raises(RendezvousError, match="waited 0 s for learner rank 0 to say on the bus where the ranks meet"):
        find_store(control, bus, 2)
