"""Certificates that change while the service goes on, as new connections see them."""

import shutil
import socket
import ssl
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.orchestrator.certificates import Authority, Pair
from tests.support.orchestrator.run_service import METADATA, Service


def served(port: int, client: Pair | None = None) -> str:
    """Common name of the certificate that a new connection gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        found = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    return str(found.subject.rfc4514_string()).removeprefix("CN=")


def both(service: Service) -> list[str]:
    return [served(service.ready[port]) for port in ("port", "grpc_port")]


def put(source: Path, place: Path) -> None:
    """In one step, as tools that renew certificates do."""
    scratch = place.with_suffix(".new")
    shutil.copy(source, scratch)
    scratch.replace(place)


def ask(service: Service, roots: Path, client: Pair) -> None:
    """Over gRPC. Raises RpcError."""
    credentials = grpc.ssl_channel_credentials(
        roots.read_bytes(), client.key.read_bytes(), client.certificate.read_bytes()
    )
    address = f"127.0.0.1:{service.ready['grpc_port']}"
    with grpc.secure_channel(address, credentials, [("grpc.enable_http_proxy", 0)]) as channel:
        run_pb2_grpc.RunServiceStub(channel).ListRuns(run_pb2.ListRunsRequest(), metadata=METADATA, timeout=20)


def test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    first, second, third = (ours.issue(name) for name in ("first", "second", "third"))
    used = Pair(tmp_path / "used.pem", tmp_path / "used.key")
    put(first.certificate, used.certificate)
    put(first.key, used.key)
    options = ("--tls-cert", str(used.certificate), "--tls-key", str(used.key))
    service = Service(tmp_path, *options, tls=ssl.create_default_context(cafile=str(ours.path)))
    try:
        assert both(service) == ["first", "first"]
        assert service.http.get("/v1/runs").status_code == 200

        put(second.certificate, used.certificate)  # Its key has yet to come.
        assert both(service) == ["first", "first"]
        put(second.key, used.key)
        assert both(service) == ["second", "second"]
        assert service.http.get("/v1/runs").status_code == 200, "a connection that was open goes on"

        for broken in ("", "no certificate", second.certificate.read_text()[:200]):
            used.certificate.write_text(broken)
            assert both(service) == ["second", "second"]
        used.certificate.unlink()
        assert both(service) == ["second", "second"]
        log = service.log.read_text()
        assert "the certificate before stays in use" in log
        assert str(used.certificate) in log
        assert "Traceback" not in log

        put(third.key, used.key)
        used.certificate.write_bytes(third.certificate.read_bytes())  # In place.
        assert both(service) == ["third", "third"]
    finally:
        service.close()


def test_the_authority_of_clients_changes_without_a_restart(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server, known, other = ours.issue("server"), ours.issue("known"), theirs.issue("other")
    accepted = tmp_path / "accepted.pem"
    put(ours.path, accepted)
    checked = ssl.create_default_context(cafile=str(ours.path))
    checked.load_cert_chain(known.certificate, known.key)
    options = ("--tls-cert", str(server.certificate), "--tls-key", str(server.key), "--tls-client-ca", str(accepted))
    service = Service(tmp_path, *options, tls=checked)

    def lets_in(client: Pair) -> list[bool]:
        context = ssl.create_default_context(cafile=str(ours.path))
        context.load_cert_chain(client.certificate, client.key)
        found = []
        with socket.create_connection(("127.0.0.1", service.ready["port"]), timeout=10) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    found.append(b"200 OK" in connection.recv(100))
            except OSError:
                found.append(False)
        try:
            ask(service, ours.path, client)
            found.append(True)
        except grpc.RpcError as error:
            found.append(error.code() is not grpc.StatusCode.UNAVAILABLE)
        return found

    try:
        assert (lets_in(known), lets_in(other)) == ([True, True], [False, False])
        put(theirs.path, accepted)
        assert (lets_in(known), lets_in(other)) == ([False, False], [True, True])
        accepted.write_text("no authority")
        assert (lets_in(known), lets_in(other)) == ([False, False], [True, True])
        assert "--tls-client-ca" in service.log.read_text()
    finally:
        service.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_of_before_lets_in_a_client_of_an_authority_that_was_removed(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server, known = ours.issue("server"), ours.issue("known")
    accepted = tmp_path / "accepted.pem"
    put(ours.path, accepted)
    context = ssl.create_default_context(cafile=str(ours.path))
    context.load_cert_chain(known.certificate, known.key)
    options = ("--tls-cert", str(server.certificate), "--tls-key", str(server.key), "--tls-client-ca", str(accepted))
    service = Service(tmp_path, *options, tls=context)
    asked = {
        "port": (["http/1.1"], b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "grpc_port": (["h2"], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])),
    }

    def connect(face: str, session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        """What it answers, if anything, and the session that it may be asked with again."""
        protocols, request = asked[face]
        client = contexts[face]
        client.set_alpn_protocols(protocols)
        try:
            with (
                socket.create_connection(("127.0.0.1", service.ready[face]), timeout=10) as plain,
                client.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection,
            ):
                connection.sendall(request)
                return connection.recv(100), connection.session
        except OSError:
            return b"", None

    contexts = {}
    for face in asked:
        contexts[face] = ssl.create_default_context(cafile=str(ours.path))
        contexts[face].load_cert_chain(known.certificate, known.key)
        contexts[face].minimum_version = contexts[face].maximum_version = version
    try:
        before = {face: connect(face, None) for face in asked}
        assert before["grpc_port"][0]
        # TLS 1.2 may go on with a session that the server remembers: REST does not have it beside a client's CA.
        assert bool(before["port"][0]) == (version is ssl.TLSVersion.TLSv1_3)
        put(theirs.path, accepted)
        assert {face: connect(face, session)[0] for face, (_, session) in before.items()} == dict.fromkeys(asked, b"")
    finally:
        service.close()


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_a_service_does_not_start_with_a_pair_that_cannot_be_used(tmp_path: Path, missing: str) -> None:
    pair = Authority(tmp_path, "ours").issue("server")
    getattr(pair, missing).unlink()
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    with pytest.raises(AssertionError, match="cannot serve: --tls-cert"):
        Service(tmp_path, *options)
