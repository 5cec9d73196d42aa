"""Who asks, and what they may do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.tokens import TOKEN_FILE, Scope, TokenError, add_token, revoke_token
from dapo.v1 import run_pb2 as pb
from services.orchestrator.api.doors.grpc import operation_of
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.rest import create_app
from services.orchestrator.fleet.service import RunService
from services.orchestrator.security.access import SCOPES, Access, Caller, Forbidden, Unauthorised, UnsafeBind, authorise
from tests.support.orchestrator.launcher import FakeLauncher


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def test_every_method_of_grpc_and_every_route_has_a_scope_and_no_scope_is_of_nothing(tmp_path: Path) -> None:
    app = create_app(Operations(RunService(FakeLauncher(), state_dir=tmp_path)))
    paths = ("/v1/", "/metrics")
    routes = {route.name for route in app.routes if getattr(route, "path", "").startswith(paths)}
    methods = {operation_of(method.name) for method in pb.DESCRIPTOR.services_by_name["RunService"].methods}
    assert routes | methods == SCOPES.keys()


def test_a_scope_covers_those_below_it() -> None:
    for scope in Scope:
        for operation, wanted in SCOPES.items():
            caller = Caller("ada", scope)
            if list(Scope).index(scope) >= list(Scope).index(wanted):
                authorise(caller, operation)
            else:
                with pytest.raises(Forbidden, match=f"{operation} wants a token of scope {wanted}, and ada has"):
                    authorise(caller, operation)


def test_tokens_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_FILE
    secrets = {name: add_token(path, name, scope) for name, scope in (("ada", Scope.READ), ("bob", Scope.RUN))}
    access = Access("the owner's own", path)
    assert access.identify(bearer(secrets["ada"]), "::1") == Caller("ada", Scope.READ, "::1")
    assert access.identify(f"bearer  {secrets['bob']} ").name == "bob"
    assert access.identify(bearer("the owner's own")).scope is Scope.ADMIN
    for header in (None, "", "Bearer", "Bearer ", bearer("x"), f"Basic {secrets['ada']}", secrets["ada"], "Bearer é"):
        with pytest.raises(Unauthorised):
            access.identify(header)


@given(st.text(max_size=80))
def test_no_other_text_is_a_token(text: str) -> None:
    with pytest.raises(Unauthorised):
        Access("the owner's own").identify(f"Bearer {text}x")


def test_a_token_is_taken_and_refused_as_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_FILE
    access = Access(path=path)
    assert access.identify(None) == Caller("", Scope.ADMIN)
    secret = add_token(path, "ada", Scope.RUN)
    assert access.identify(bearer(secret)).name == "ada"
    revoke_token(path, "ada")
    with pytest.raises(Unauthorised):
        access.identify(bearer(secret))
    path.unlink()
    with pytest.raises(Unauthorised):
        access.identify(None)


def test_while_the_file_is_damaged_none_of_its_tokens_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / TOKEN_FILE
    secret = add_token(path, "ada", Scope.RUN)
    access = Access("own", path)
    whole = path.read_text()
    path.write_text(whole[:-5])
    with pytest.raises(Unauthorised):
        access.identify(bearer(secret))
    assert "none of the tokens is taken" in caplog.text
    assert access.identify(bearer("own")).scope is Scope.ADMIN
    path.write_text(whole)
    assert access.identify(bearer(secret)).name == "ada"
    path.chmod(0o640)
    with pytest.raises(Unauthorised):
        access.identify(bearer(secret))
    with pytest.raises(TokenError, match="chmod 600"):
        Access("own", path)


def test_beyond_loopback_a_token_is_wanted_that_cannot_be_guessed(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1", "[::1]"):
        Access().check_bind(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(UnsafeBind, match="dapo tokens add"):
            Access().check_bind(host)
        with pytest.raises(UnsafeBind, match="only 5 characters"):
            Access("short").check_bind(host)
        Access("0123456789abcdef").check_bind(host)
    path = tmp_path / TOKEN_FILE
    add_token(path, "ada", Scope.READ)
    Access(path=path).check_bind("0.0.0.0")


def test_who_sends_no_token_is_told_to_and_who_sends_a_wrong_one_that_it_is_wrong() -> None:
    access = Access("the owner's own")
    for header in (None, "", "Bearer", "Bearer ", "Basic x", "the owner's own"):
        with pytest.raises(Unauthorised, match="send the service's token as 'Authorization: Bearer <token>'"):
            access.identify(header)
    with pytest.raises(Unauthorised, match="this token is not known here: it was revoked, or is of another service"):
        access.identify("Bearer x")
