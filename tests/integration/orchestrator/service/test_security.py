"""Who may use a live run service: scopes, the page's login, limits, TLS and the audit."""

import json
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from dapo.client import ClientTls, RefusedRequest, RunClient, ServiceError
from dapo.tokens import TOKEN_FILE, Scope, add_token, revoke_token
from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.orchestrator.certificates import Authority
from tests.support.orchestrator.run_service import Service, kind


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, dict[Scope, str]]]:
    """A service with a token of each scope."""
    folder = tmp_path_factory.mktemp("guarded")
    secrets = {scope: add_token(folder / TOKEN_FILE, f"{scope}-token", scope) for scope in Scope}
    service = Service(folder, token="", module="tests.support.orchestrator.fake_service")
    yield service, secrets
    service.close()


def audit(service: Service) -> list[dict]:
    return [json.loads(line) for line in (service.folder / "audit.jsonl").read_text().splitlines()]


def as_(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    ("method", "path", "body", "wanted"),
    [
        ("GET", "/v1/runs", None, Scope.READ),
        ("GET", "/v1/runs/none", None, Scope.READ),
        ("GET", "/v1/runs/none/events", None, Scope.READ),
        ("POST", "/v1/runs", {"spec": "x"}, Scope.RUN),
        ("POST", "/v1/runs/none/stop", None, Scope.RUN),
        ("PATCH", "/v1/runs/none", {"generators": 1}, Scope.RUN),
        ("POST", "/v1/runs/none/purge", None, Scope.ADMIN),
    ],
)
def test_a_token_reaches_as_far_as_its_scope(guarded, method, path, body, wanted) -> None:
    service, secrets = guarded
    assert kind(service.http.request(method, path, json=body)) == (401, "unauthorised")
    for scope, secret in secrets.items():
        response = service.http.request(method, path, json=body, headers=as_(secret))
        refused = not scope.covers(wanted)
        assert (response.status_code == 403) == refused, (scope, response.text)
        if refused:
            assert kind(response) == (403, "forbidden")
            assert f"wants a token of scope {wanted}" in response.json()["detail"]


def test_grpc_goes_by_the_same_scopes(guarded) -> None:
    service, secrets = guarded
    with grpc.insecure_channel(f"127.0.0.1:{service.ready['grpc_port']}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = run_pb2_grpc.RunServiceStub(channel)
        for scope, secret in secrets.items():
            metadata = (("authorization", f"Bearer {secret}"),)
            stub.ListRuns(run_pb2.ListRunsRequest(), metadata=metadata)
            with pytest.raises(grpc.RpcError) as caught:
                stub.StopRun(run_pb2.StopRunRequest(id="none"), metadata=metadata)
            forbidden = scope is Scope.READ
            assert caught.value.code() == (
                grpc.StatusCode.PERMISSION_DENIED if forbidden else grpc.StatusCode.NOT_FOUND
            )


def test_each_change_is_recorded_with_who_wanted_it_and_what_became_of_it(guarded) -> None:
    service, secrets = guarded
    service.http.post("/v1/runs/r-1/stop", headers=as_(secrets[Scope.READ]))
    change = {"generators": 2, "labels": {"team": "secret", "a": None}, "notes": "secret"}
    service.http.patch("/v1/runs/r-1", json=change, headers=as_(secrets[Scope.RUN]))
    service.http.post("/v1/runs/r-2/resume", json={"set": ["a=1"]}, headers=as_(secrets[Scope.ADMIN]))
    stopped, changed, resumed = audit(service)[-3:]
    assert (stopped["who"], stopped["operation"], stopped["run"]) == ("read-token", "stop_run", "r-1")
    assert (stopped["outcome"], stopped["address"]) == ("forbidden", "127.0.0.1")
    assert (changed["who"], changed["operation"], changed["run"]) == ("run-token", "update_run", "r-1")
    assert (changed["generators"], changed["labels"], changed["notes"]) == (2, ["a", "team"], True)
    assert (changed["outcome"], "secret" in json.dumps(changed)) == ("not_found", False)
    assert (resumed["who"], resumed["set"], resumed["outcome"]) == ("admin-token", ["a"], "not_found")
    assert stat.S_IMODE((service.folder / "audit.jsonl").stat().st_mode) == 0o600


def test_a_token_comes_and_goes_without_a_restart(guarded) -> None:
    service, _ = guarded
    secret = add_token(service.folder / TOKEN_FILE, "guest", Scope.READ)
    assert service.http.get("/v1/whoami", headers=as_(secret)).json() == {"name": "guest", "scope": "read"}
    revoke_token(service.folder / TOKEN_FILE, "guest")
    assert service.http.get("/v1/whoami", headers=as_(secret)).status_code == 401


def test_the_page_logs_in_with_a_cookie_that_changes_things_from_its_own_pages_only(guarded) -> None:
    service, secrets = guarded
    base = str(service.http.base_url)
    with httpx.Client(base_url=base, trust_env=False) as page:
        assert kind(page.post("/login", json={"token": "wrong"})) == (401, "unauthorised")
        assert kind(page.post("/login", json={"token": 3}))[0] == 422
        answer = page.post("/login", json={"token": secrets[Scope.RUN]})
        assert answer.json() == {"name": "run-token", "scope": "run"}
        (set_cookie,) = answer.headers.get_list("set-cookie")
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(set_cookie.split("; "))
        assert secrets[Scope.RUN] not in set_cookie
        assert page.get("/v1/whoami").json() == {"name": "run-token", "scope": "run"}
        for foreign in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}):
            assert kind(page.post("/v1/runs/none/stop", headers=foreign)) == (403, "forbidden")
        for own in ({"Origin": base}, {"Sec-Fetch-Site": "same-origin"}):
            assert kind(page.post("/v1/runs/none/stop", headers=own)) == (404, "not_found")
        assert kind(page.get("/v1/whoami", headers=as_("wrong"))) == (401, "unauthorised")
        assert page.post("/logout").status_code == 204
        assert kind(page.get("/v1/whoami")) == (401, "unauthorised")


def test_pages_of_other_sites_cannot_use_a_service_that_wants_no_token(tmp_path: Path) -> None:
    service = Service(tmp_path, token="")
    try:
        port = service.ready["port"]
        assert service.http.get("/v1/runs").status_code == 200
        assert service.http.get("/v1/runs", headers={"Host": f"localhost:{port}"}).status_code == 200
        for host in (f"evil.example:{port}", "[", "", "127.0.0.1.evil.example"):
            assert kind(service.http.get("/v1/runs", headers={"Host": host})) == (403, "forbidden")
        for foreign in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert kind(service.http.post("/v1/runs/none/stop", headers=foreign)) == (403, "forbidden")
        assert kind(service.http.post("/v1/runs/none/stop")) == (404, "not_found")
    finally:
        service.close()


def test_what_is_too_much_is_refused_and_told_when_to_come_again(tmp_path: Path, spec: dict) -> None:
    service = Service(tmp_path, "--requests-per-minute", "90", "--streams", "2")
    try:
        assert kind(service.http.post("/v1/runs", json={"spec": "x" * (1 << 20)})) == (413, "too_large")
        chunks = (b"x" * (1 << 16) for _ in range(17))
        assert kind(service.http.post("/v1/runs", content=chunks)) == (413, "too_large")
        run = service.http.post("/v1/runs", json={"spec": spec}).json()
        with service.http.stream("GET", f"/v1/runs/{run['id']}/events"):
            second = service.http.get(f"/v1/runs/{run['id']}/events")
            assert kind(second) == (429, "too_many_requests")
            assert int(second.headers["Retry-After"]) >= 1
        service.http.post(f"/v1/runs/{run['id']}/stop")
        # The stream was left: its place is free again.
        assert service.http.get(f"/v1/runs/{run['id']}/events").status_code == 200
        # Of a request that is answered faster than they may come.
        answers = (service.http.get("/v1/whoami") for _ in range(500))
        refused = next(answer for answer in answers if answer.status_code != 200)
        assert kind(refused) == (429, "too_many_requests")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
    finally:
        service.close()


def test_tls_of_both_faces_with_certificates_of_clients(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server, client, stranger = ours.issue("server"), ours.issue("client"), theirs.issue("stranger")
    checked = ssl.create_default_context(cafile=str(ours.path))
    checked.load_cert_chain(client.certificate, client.key)
    options = ("--tls-cert", str(server.certificate), "--tls-key", str(server.key), "--tls-client-ca", str(ours.path))
    service = Service(tmp_path, *options, tls=checked)
    try:
        assert service.http.get("/v1/runs").status_code == 200
        cookie = service.http.post("/login", json={"token": "test-token"}).headers["set-cookie"]
        assert "Secure" in cookie.split("; ")
        url, token = str(service.http.base_url), "test-token"
        with RunClient(url, token, ClientTls(str(ours.path), str(client.certificate), str(client.key))) as known:
            assert known.list() == []
        for tls in (
            None,
            ClientTls(str(ours.path)),
            ClientTls(str(ours.path), str(stranger.certificate), str(stranger.key)),
            ClientTls(str(theirs.path), str(client.certificate), str(client.key)),
        ):
            with RunClient(url, token, tls) as unknown, pytest.raises(ServiceError) as raised:
                unknown.list()
            assert not isinstance(raised.value, RefusedRequest)
        with pytest.raises(ServiceError, match="DAPO_TLS_CA"):
            RunClient(url, token, ClientTls(str(tmp_path / "absent.pem")))
        own = (client.key.read_bytes(), client.certificate.read_bytes())
        for pair, answers in ((own, True), ((None, None), False)):
            credentials = grpc.ssl_channel_credentials(ours.path.read_bytes(), *pair)
            address = f"127.0.0.1:{service.ready['grpc_port']}"
            with grpc.secure_channel(address, credentials, [("grpc.enable_http_proxy", 0)]) as channel:
                call = run_pb2_grpc.RunServiceStub(channel).ListRuns
                ask = lambda: call(run_pb2.ListRunsRequest(), metadata=(("authorization", "Bearer test-token"),))  # noqa: B023, E731
                if answers:
                    ask()
                else:
                    with pytest.raises(grpc.RpcError) as caught:
                        ask()
                    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        service.close()
