"""The same key makes one run."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.catalogue import idempotency
from services.orchestrator.catalogue.idempotency import REQUESTS_FILE, Idempotency, KeyReused


class Maker:
    def __init__(self) -> None:
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        await asyncio.sleep(0)
        return f"r-{self.made}"


@pytest.fixture(params=["file", "memory"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Idempotency]:
    one = Idempotency(None)
    return lambda: Idempotency(tmp_path) if request.param == "file" else one


def once(store: Idempotency, key: str, request: str, make: Any) -> tuple[str, bool]:
    return asyncio.run(store.once(key, request, make))


def test_a_request_that_comes_again_makes_no_second_run(fresh: Callable[[], Idempotency]) -> None:
    make = Maker()
    assert once(fresh(), "k", "body", make) == ("r-1", False)
    assert once(fresh(), "k", "body", make) == ("r-1", True)
    assert once(fresh(), "other", "body", make) == ("r-2", False)
    with pytest.raises(KeyReused, match="another request"):
        once(fresh(), "k", "another body", make)
    assert make.made == 2


def test_of_two_at_once_one_makes_the_run(fresh: Callable[[], Idempotency]) -> None:
    make = Maker()

    async def both() -> list[tuple[str, bool]]:
        store = fresh()
        return await asyncio.gather(*(store.once("k", "body", make) for _ in range(5)))

    found = asyncio.run(both())
    assert {run for run, _ in found} == {"r-1"}
    assert [again for _, again in found].count(False) == 1


def test_a_request_that_was_refused_may_come_again(fresh: Callable[[], Idempotency]) -> None:
    async def refuse() -> str:
        raise LookupError("no")

    with pytest.raises(LookupError):
        once(fresh(), "k", "body", refuse)
    assert once(fresh(), "k", "another body", Maker()) == ("r-1", False)


def test_what_another_instance_has_begun_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> str:
            begun.set()
            await go_on.wait()
            return "r-1"

        async def fail() -> str:
            await slowly()
            raise LookupError("no")

        make = Maker()
        first = asyncio.create_task(Idempotency(tmp_path).once("k", "body", slowly))
        await begun.wait()
        second = asyncio.create_task(Idempotency(tmp_path).once("k", "body", make))
        await asyncio.sleep(0.2)
        go_on.set()
        assert (await first, await second) == (("r-1", False), ("r-1", True))
        assert make.made == 0

        begun.clear()
        go_on.clear()
        refused = asyncio.create_task(Idempotency(tmp_path).once("other", "body", fail))
        await begun.wait()
        second = asyncio.create_task(Idempotency(tmp_path).once("other", "body", make))
        await asyncio.sleep(0.2)
        go_on.set()
        assert await second == ("r-1", False)
        with pytest.raises(LookupError):
            await refused

    asyncio.run(scenario())


def test_a_key_does_not_wait_for_the_request_of_another(fresh: Callable[[], Idempotency]) -> None:
    async def scenario() -> None:
        store, make = fresh(), Maker()

        async def and_another() -> str:
            return (await store.once("inner", "body", make))[0]

        assert await asyncio.wait_for(store.once("outer", "body", and_another), 30) == ("r-1", False)

    asyncio.run(scenario())


def test_a_key_whose_request_was_cut_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_PATIENCE_S", 0.1)

    async def die() -> str:
        # As a process does that is killed here.
        before.append((tmp_path / REQUESTS_FILE).read_text())
        return "r-1"

    before: list[str] = []
    once(Idempotency(tmp_path), "k", "body", die)
    (tmp_path / REQUESTS_FILE).write_text(before[0])
    with pytest.raises(KeyReused, match="not known"):
        once(Idempotency(tmp_path), "k", "body", Maker())


def test_keys_are_bounded_and_not_kept_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_KEPT", 3)
    make = Maker()
    for number in range(5):
        once(Idempotency(tmp_path), f"key-{number}", "body", make)
    text = (tmp_path / REQUESTS_FILE).read_text()
    assert len(json.loads(text)) == 3
    assert "key-" not in text
    assert once(Idempotency(tmp_path), "key-4", "body", make)[1]
    assert not once(Idempotency(tmp_path), "key-0", "body", make)[1]
