"""The page's login with several instances of the service, and after a restart."""

from pathlib import Path

import httpx
import redis

from dapo.bus.server.embedded import EmbeddedValkey
from dapo.tokens import TOKEN_FILE, Scope, add_token, digest, revoke_token
from services.orchestrator.security.sessions import COOKIE, LIFETIME_S
from tests.support.orchestrator.run_service import Service, kind


def who(service: Service, cookie: str) -> str | None:
    """Whose session the service takes the cookie for."""
    answer = httpx.get(
        f"{service.http.base_url}/v1/whoami", headers={"Cookie": f"{COOKIE}={cookie}"}, trust_env=False, timeout=30
    )
    if answer.status_code == 401:
        return None
    return answer.raise_for_status().json()["name"]


def log_in(service: Service, secret: str) -> str:
    return service.http.post("/login", json={"token": secret}).raise_for_status().cookies[COOKIE]


def log_out(service: Service, cookie: str) -> None:
    service.http.cookies.clear()
    service.http.post("/logout", headers={"Cookie": f"{COOKIE}={cookie}"}).raise_for_status()


def test_a_session_holds_at_all_instances_until_it_ends_at_one(tmp_path: Path, valkey: EmbeddedValkey) -> None:
    secrets = {name: add_token(tmp_path / TOKEN_FILE, name, Scope.RUN) for name in ("ada", "grace")}
    one = Service(tmp_path, name="one", token="", REDIS_URL=valkey.url)
    two = Service(tmp_path, name="two", token="", REDIS_URL=valkey.url)
    try:
        ada, again, grace = log_in(one, secrets["ada"]), log_in(two, secrets["ada"]), log_in(two, secrets["grace"])
        for service in (one, two):
            assert [who(service, cookie) for cookie in (ada, again, grace, "none")] == ["ada", "ada", "grace", None]

        with redis.Redis.from_url(valkey.url) as client:
            keys = [key.decode() for key in client.scan_iter("dapo:sessions:*")]
            assert f"dapo:sessions:{digest(ada)}" in keys
            kept = " ".join([*keys, *(client.get(key).decode() for key in keys)])
            assert not any(secret in kept for secret in (ada, again, grace, *secrets.values()))
            assert all(LIFETIME_S - 600 < client.ttl(key) <= LIFETIME_S for key in keys)

        one.close()
        one = Service(tmp_path, name="one", token="", REDIS_URL=valkey.url)
        assert [who(one, cookie) for cookie in (ada, grace)] == ["ada", "grace"], "it survives a restart"

        log_out(two, ada)
        assert [who(service, ada) for service in (one, two)] == [None, None]
        assert [who(service, again) for service in (one, two)] == ["ada", "ada"]
        revoke_token(tmp_path / TOKEN_FILE, "ada")
        assert [who(service, again) for service in (one, two)] == [None, None]
        assert [who(service, grace) for service in (one, two)] == ["grace", "grace"]
    finally:
        one.close()
        two.close()


def test_a_session_survives_a_restart_of_a_service_with_a_valkey_of_its_own(tmp_path: Path) -> None:
    secret = add_token(tmp_path / TOKEN_FILE, "ada", Scope.READ)
    service = Service(tmp_path, token="")
    try:
        cookie = log_in(service, secret)
        service.close()
        service = Service(tmp_path, token="")
        assert who(service, cookie) == "ada"
        log_out(service, cookie)
        assert who(service, cookie) is None
    finally:
        service.close()


def test_a_session_cannot_be_checked_while_redis_is_silent(tmp_path: Path) -> None:
    secret = add_token(tmp_path / TOKEN_FILE, "ada", Scope.READ)
    folder = tmp_path / "redis"
    folder.mkdir()
    with EmbeddedValkey(folder, memory_mib=64) as server:
        service = Service(tmp_path, token="", REDIS_URL=server.url)
        cookie = log_in(service, secret)
        assert who(service, cookie) == "ada"
    try:
        url = f"{service.http.base_url}/v1/whoami"
        answer = httpx.get(url, headers={"Cookie": f"{COOKIE}={cookie}"}, trust_env=False, timeout=60)
        assert kind(answer) == (503, "no_answer")
        assert service.http.get("/v1/whoami", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    finally:
        service.close()
