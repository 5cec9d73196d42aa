"""Sessions of the web page, of one process."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from dapo.bus import BusUnavailable
from dapo.tokens import TOKEN_FILE, Scope, Token, add_token, digest, revoke_token
from services.orchestrator.api.doors.rest import Door
from services.orchestrator.runs.questions import NoAnswer
from services.orchestrator.security import sessions as sessions_module
from services.orchestrator.security.access import Access
from services.orchestrator.security.guard import Guard
from services.orchestrator.security.sessions import COOKIE, LIFETIME_S, ProcessStore, Sessions


def test_a_session_ends_with_its_time_its_token_and_at_the_logout(tmp_path: Path) -> None:
    path, now = tmp_path / TOKEN_FILE, [100.0]
    access = Access(path=path)
    store = ProcessStore(lambda: now[0])
    sessions = Sessions(store)

    async def main() -> None:
        secret = add_token(path, "ada", Scope.RUN)
        token = access.find(secret)
        assert token is not None
        first, second, third = [await sessions.begin(token) for _ in range(3)]
        assert len({first, second, third}) == 3
        for cookie in (first, second, third):
            assert await sessions.find(cookie, access.named) == token
        for forged in ("", "é", first[:-1], first + "x", digest(first), "ada"):
            assert await sessions.find(forged, access.named) is None
        await sessions.end(first)
        await sessions.end("none")
        assert await sessions.find(first, access.named) is None
        assert await sessions.find(second, access.named) == token
        now[0] += LIFETIME_S
        assert await sessions.find(second, access.named) is None
        fourth = await sessions.begin(token)
        revoke_token(path, "ada")
        assert await sessions.find(fourth, access.named) is None
        add_token(path, "ada", Scope.ADMIN)
        assert await sessions.find(fourth, access.named) is None, "it stood for another token of that name"

    asyncio.run(main())


def test_what_is_kept_makes_no_cookie_and_cannot_be_turned_over_to_another_token() -> None:
    ada, eve = (Token(name, Scope.ADMIN, digest(name), "") for name in ("ada", "eve"))
    kept: dict[str, str] = {}

    class Store(ProcessStore):
        async def put(self, key: str, text: str, lifetime_s: int) -> None:
            kept[key] = text

        async def get(self, key: str) -> str | None:
            return kept.get(key)

    async def main() -> None:
        sessions = Sessions(Store())
        cookie = await sessions.begin(eve)
        (key,) = kept
        whole = key + kept[key]
        assert cookie not in whole
        assert eve.sha256 not in whole
        kept[key] = json.dumps(["ada", json.loads(kept[key])[1]])
        assert await sessions.find(cookie, {"ada": ada, "eve": eve}.get) is None

    asyncio.run(main())


def test_a_process_remembers_so_many_and_a_store_that_is_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "_MOST", 3)
    token = Token("ada", Scope.READ, digest("x"), "")

    class Gone(ProcessStore):
        async def get(self, key: str) -> str | None:
            raise BusUnavailable("gone")

    async def main() -> None:
        sessions = Sessions()
        cookies = [await sessions.begin(token) for _ in range(5)]
        found = [await sessions.find(cookie, lambda _: token) for cookie in cookies]
        assert found == [None, None, token, token, token]
        with pytest.raises(NoAnswer):
            await Sessions(Gone()).find(cookies[0], lambda _: token)

    asyncio.run(main())


def test_of_an_address_that_has_failed_too_often_no_cookie_is_looked_up() -> None:
    class Counting(ProcessStore):
        asked = 0

        async def get(self, key: str) -> str | None:
            self.asked += 1
            return await super().get(key)

    guard, store = Guard(Access("x" * 32)), Counting()
    guard.keep_sessions(store)
    app = Starlette()
    app.add_middleware(Door, guard=guard)
    answers: Counter[int] = Counter()
    with TestClient(app, client=("10.0.0.1", 50000)) as client:
        for _ in range(200):
            answers[client.get("/v1/runs", headers={"cookie": f"{COOKIE}=nothing"}).status_code] += 1
        assert answers.keys() == {401, 429}
        assert store.asked <= answers[401] + 1 < 100
        token = {"authorization": f"Bearer {'x' * 32}"}
        assert client.get("/v1/runs", headers=token).status_code == 404, "a token is checked without the store"
    with TestClient(app, client=("10.0.0.2", 50000)) as other:
        assert other.get("/v1/runs", headers={"cookie": f"{COOKIE}=nothing"}).status_code == 401
