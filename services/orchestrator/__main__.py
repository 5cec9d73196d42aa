"""`python -m services.orchestrator`: the run service over REST and gRPC."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import get_args

from dapo.bus import BusError
from dapo.bus.index import RunIndex
from dapo.bus.sessions import SessionRecords
from dapo.environment import REDIS_VARIABLE, TOKEN_VARIABLE
from dapo.host.devices import DeviceError
from dapo.host.files import write_text
from dapo.host.processes import die_with_parent
from dapo.host.storage import in_words
from dapo.policy import Admission, Policy, PolicyError, load_policy
from dapo.telemetry import logs
from dapo.telemetry.logs import BadLogFormat
from dapo.tokens import TOKEN_FILE, TokenError
from services.orchestrator.api.doors.listeners import METRICS_OPTION, HttpServer, listen_for, told
from services.orchestrator.api.doors.tls import BadCertificate, Tls
from services.orchestrator.api.grpc_api import start_grpc
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.rest import create_app
from services.orchestrator.api.routes.metrics import create_metrics_app
from services.orchestrator.catalogue.idempotency import REQUESTS_FILE
from services.orchestrator.fleet.reconciler import Reconciler
from services.orchestrator.fleet.service import RunService
from services.orchestrator.fleet.valkey import ServiceValkey
from services.orchestrator.launch.kubernetes.open import add_kubernetes_arguments
from services.orchestrator.launchers import LAUNCHERS, BadLauncher, Opened
from services.orchestrator.runs.tenure import new_owner
from services.orchestrator.security.access import Access, UnsafeBind
from services.orchestrator.security.audit import AUDIT_FILE, Audit
from services.orchestrator.security.guard import REQUESTS_PER_MINUTE, STREAMS, Guard

log = logging.getLogger("services.orchestrator")

_PORTS = 1 << 16


def _arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.orchestrator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="other than loopback only with a token")
    parser.add_argument("--port", type=_port, default=0, help="of REST; 0 chooses a free one")
    parser.add_argument("--grpc-port", type=_port, default=0, help="of gRPC; 0 chooses a free one")
    parser.add_argument(
        "--redis-url",
        default=os.environ.get(REDIS_VARIABLE) or None,
        help="Redis or Valkey for all runs (default: REDIS_URL); without one the service embeds a Valkey",
    )
    parser.add_argument("--state-dir", type=Path, default=Path(), help="runs/<id> are made under this directory")
    parser.add_argument("--tls-cert", type=Path, help="PEM file of the service's certificate: https, and gRPC over TLS")
    parser.add_argument("--tls-key", type=Path, help="PEM file of its key")
    parser.add_argument("--tls-client-ca", type=Path, help="PEM file of the CA whose certificates clients must have")
    parser.add_argument(
        "--requests-per-minute",
        type=_positive,
        default=REQUESTS_PER_MINUTE,
        help="of one caller; more are refused (429)",
    )
    parser.add_argument(
        "--streams", type=_positive, default=STREAMS, help="open ones of all callers; one may have half"
    )
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="of one command, which ends with it: go on with no run of an earlier service, nor have a later one do so; "
        "no tokens but that of the environment, no audit, no policy, and a Valkey for each run",
    )
    parser.add_argument(
        "--launcher",
        choices=sorted(LAUNCHERS),
        default="local",
        help="local: workers are processes of this machine; attached: of agents on any (dapo agent), docs/agents.md; "
        "kubernetes: pods of a cluster, docs/kubernetes.md",
    )
    add_kubernetes_arguments(parser)
    parser.add_argument("--max-runs", type=_positive, help="under way at a time; more wait in the queue")
    parser.add_argument(
        "--cores", type=_positive, help="for the runs under way, a worker one each; not counted without"
    )
    parser.add_argument("--memory-gib", type=_positive, help="for the runs under way; default: the machine's")
    parser.add_argument("--policy", type=Path, help="YAML file of what specs may ask for; docs/operating.md")
    parser.add_argument("--metrics-open", action="store_true", help="GET /metrics wants no token")
    parser.add_argument(
        METRICS_OPTION,
        type=_host_and_port,
        metavar="HOST:PORT",
        help="GET /metrics there, too, without a token and without TLS; port 0 chooses a free one",
    )
    parser.add_argument(
        "--log-format",
        choices=get_args(logs.LogFormat),
        help=f"of this service and its workers; default: {logs.VARIABLE}, or text",
    )
    parser.add_argument("--ready-file", type=Path, help="where to write the line that says it is ready")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process ends")
    parsed = parser.parse_args(arguments)
    if parsed.embedded and (parsed.max_runs, parsed.cores, parsed.memory_gib) != (None, None, None):
        parser.error("--max-runs, --cores and --memory-gib are of a queue, which --embedded has none of")
    return parsed


def _positive(text: str) -> int:
    """Raises ArgumentTypeError."""
    return _within(text, range(1, sys.maxsize), "1 or more")


def _port(text: str) -> int:
    """Raises ArgumentTypeError."""
    return _within(text, range(_PORTS), f"0 to {_PORTS - 1}, where 0 chooses a free one")


def _host_and_port(text: str) -> tuple[str, int]:
    """Raises ArgumentTypeError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"{text} is none: HOST:PORT, e.g. 127.0.0.1:9108 or [::1]:9108")
    return host.strip("[]"), _port(port)


def _within(text: str, numbers: range, words: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = numbers.start - 1
    if number not in numbers:
        raise argparse.ArgumentTypeError(f"{text} is none: {words}")
    return number


def _announce(line: str, ready_file: Path | None) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    if ready_file is not None:
        write_text(ready_file, line + "\n")


def _tls(arguments: argparse.Namespace) -> Tls | None:
    """Raises BadCertificate."""
    given = (arguments.tls_cert, arguments.tls_key)
    if given == (None, None) and arguments.tls_client_ca is None:
        return None
    if None in given:
        raise BadCertificate("--tls-cert and --tls-key belong together: give both")
    return Tls(*given, arguments.tls_client_ca)


def _guard(arguments: argparse.Namespace, token: str) -> Guard:
    """Raises TokenError, UnsafeBind."""
    folder: Path | None = None if arguments.embedded else arguments.state_dir
    access = Access(token, folder / TOKEN_FILE if folder is not None else None)
    access.check_bind(arguments.host)
    audit = Audit(folder / AUDIT_FILE if folder is not None else None)
    return Guard(access, audit, requests_per_minute=arguments.requests_per_minute, streams=arguments.streams)


def _admission(arguments: argparse.Namespace) -> Admission | None:
    """Raises PolicyError."""
    if arguments.embedded:
        return None
    policy = load_policy(arguments.policy) if arguments.policy is not None else Policy()
    return Admission(policy, arguments.state_dir, (TOKEN_FILE, AUDIT_FILE, REQUESTS_FILE))


async def serve(arguments: argparse.Namespace, guard: Guard, tls: Tls | None, admission: Admission | None) -> None:
    """Serve until SIGTERM or SIGINT; then stop every run and return."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        opened = await LAUNCHERS[arguments.launcher](arguments, stack)
        service = await _open_service(arguments, opened, stack, admission, guard)
        operations = Operations(service, guard, admission=admission, state_dir=arguments.state_dir)
        await _serve(operations, arguments, tls, stopping)


async def _open_service(
    arguments: argparse.Namespace,
    opened: Opened,
    stack: contextlib.AsyncExitStack,
    admission: Admission | None,
    guard: Guard,
) -> RunService:
    """The service of `dapo train` keeps its runs to itself; any other lists them for those that share its Redis, and
    goes on with what nobody leads. Raises OSError, BusError."""
    state_dir, url = arguments.state_dir, arguments.redis_url
    if arguments.embedded:
        service = RunService(opened.launcher, state_dir=state_dir, redis_url=url, machine=opened.capacity)
        stack.push_async_callback(service.close)
        return service
    alone = url is None
    owner = new_owner()
    if url is None:
        valkey = ServiceValkey(state_dir)
        stack.push_async_callback(valkey.close)
        await valkey.open()
        # Nobody else has this Valkey: after a crash the leases of the service before are its own.
        url, owner = valkey.url, f"the service of {state_dir.resolve()}"
    index = await RunIndex.connect(url)
    stack.push_async_callback(index.close)
    sessions = await SessionRecords.connect(url)
    stack.push_async_callback(sessions.close)
    guard.keep_sessions(sessions)
    service = RunService(
        opened.launcher,
        state_dir=state_dir,
        redis_url=url,
        index=index,
        owner=owner,
        alone=alone,
        admission=admission,
        machine=opened.capacity,
    )
    reconciler = Reconciler(index, service, owner, state_dir.resolve())
    await reconciler.begin()
    stack.push_async_callback(service.close)
    working = [asyncio.create_task(reconciler.run())]
    if alone:
        working.append(asyncio.create_task(valkey.keep(service.tell)))
    stack.callback(lambda: [task.cancel() for task in working])
    return service


def _make_state_dir(state_dir: Path) -> None:
    """Raises OSError that names the option."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OSError(
            f"--state-dir {state_dir} is no directory and cannot be made one ({error.strerror}): give a directory"
        ) from error


async def _serve(
    operations: Operations, arguments: argparse.Namespace, tls: Tls | None, stopping: asyncio.Event
) -> None:
    listener = listen_for("--port", "REST", arguments.host, arguments.port)
    # Before gRPC, which holds a process that ends without it.
    scraped = listen_for(METRICS_OPTION, "metrics", *arguments.metrics_address) if arguments.metrics_address else None
    with told("--grpc-port", arguments.grpc_port, "gRPC"):
        grpc_server, grpc_port = await start_grpc(operations, arguments.host, arguments.grpc_port, tls)
    metrics = await HttpServer.start(create_metrics_app(operations.collector), scraped) if scraped else None
    rest = await HttpServer.start(create_app(operations, metrics_open=arguments.metrics_open), listener, tls)
    ready = {"host": arguments.host, "port": rest.port, "grpc_port": grpc_port, "pid": os.getpid()}
    if metrics is not None:
        ready["metrics_port"] = metrics.port
    log.info("REST on %(host)s:%(port)d, gRPC on %(host)s:%(grpc_port)d", ready)
    _announce(json.dumps(ready), arguments.ready_file)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({rest.serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    await operations.close()
    await grpc_server.stop(grace=1.0)
    await asyncio.gather(*(server.stop() for server in (rest, metrics) if server is not None))


def main() -> int:
    arguments = _arguments()
    if arguments.die_with_parent:
        die_with_parent()
    if arguments.log_format is not None:
        os.environ[logs.VARIABLE] = arguments.log_format  # its workers inherit it
    try:
        logs.configure("orchestrator")
        _make_state_dir(arguments.state_dir)
        guard, tls = _guard(arguments, os.environ.get(TOKEN_VARIABLE, "")), _tls(arguments)
        asyncio.run(serve(arguments, guard, tls, _admission(arguments)))
    except (
        *(UnsafeBind, TokenError, PolicyError, BadCertificate, BadLauncher, BadLogFormat),
        *(DeviceError, BusError, OSError),
    ) as error:
        sys.stderr.write(f"the run service cannot serve: {in_words(error)}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
