"""`python -m services.orchestrator`: the run service over REST and gRPC."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from dapo.client import TOKEN_VARIABLE
from dapo.host.devices import DeviceError, visible_cuda_devices
from dapo.host.files import write_text
from dapo.host.processes import die_with_parent
from dapo.host.storage import in_words
from dapo.telemetry.logs import configure
from services.orchestrator.api.access import UnsafeBind, check_bind
from services.orchestrator.api.grpc_api import start_grpc
from services.orchestrator.api.rest import create_app
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.local import LocalLauncher
from services.orchestrator.runs.service import RunService

log = logging.getLogger("services.orchestrator")


class _RestServer(uvicorn.Server):
    """Leaves signals to `serve` below, which first stops the runs."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def _arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.orchestrator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help=f"other than loopback only with {TOKEN_VARIABLE} set")
    parser.add_argument("--port", type=int, default=0, help="of REST; 0 chooses a free one")
    parser.add_argument("--grpc-port", type=int, default=0, help="of gRPC; 0 chooses a free one")
    parser.add_argument(
        "--redis-url",
        default=os.environ.get("REDIS_URL") or None,
        help="Redis or Valkey for all runs (default: REDIS_URL); without one each run embeds a Valkey",
    )
    parser.add_argument("--state-dir", type=Path, default=Path(), help="runs/<id> are made under this directory")
    parser.add_argument(
        "--leave-runs", action="store_true", help="go on with no run of an earlier service, nor have a later one do so"
    )
    parser.add_argument("--ready-file", type=Path, help="where to write the line that says it is ready")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process ends")
    return parser.parse_args(arguments)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    listener.setblocking(False)
    return listener


def _announce(line: str, ready_file: Path | None) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    if ready_file is not None:
        write_text(ready_file, line + "\n")


async def serve(arguments: argparse.Namespace, token: str | None) -> None:
    """Serve until SIGTERM or SIGINT; then stop every run and return."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    launcher = LocalLauncher(DeviceAllocator(visible_cuda_devices()))
    takes_up = not arguments.leave_runs
    service = RunService(launcher, state_dir=arguments.state_dir, redis_url=arguments.redis_url, takes_up=takes_up)
    listener = _listen(arguments.host, arguments.port)
    grpc_server, grpc_port = await start_grpc(service, arguments.host, arguments.grpc_port, token)
    config = uvicorn.Config(create_app(service, token), log_config=None, access_log=False, timeout_graceful_shutdown=5)
    rest = _RestServer(config)
    serving = asyncio.create_task(rest.serve(sockets=[listener]))
    ready = {"host": arguments.host, "port": listener.getsockname()[1], "grpc_port": grpc_port, "pid": os.getpid()}
    await rest.listening.wait()
    if takes_up:
        await service.take_up()
    log.info("REST on %(host)s:%(port)d, gRPC on %(host)s:%(grpc_port)d", ready)
    _announce(json.dumps(ready), arguments.ready_file)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    await service.close()
    rest.should_exit = True
    await grpc_server.stop(grace=1.0)
    await serving


def main() -> int:
    arguments = _arguments()
    if arguments.die_with_parent:
        die_with_parent()
    configure("orchestrator")
    token = os.environ.get(TOKEN_VARIABLE) or None
    try:
        check_bind(arguments.host, token)
        asyncio.run(serve(arguments, token))
    except (UnsafeBind, DeviceError, OSError) as error:
        sys.stderr.write(f"the run service cannot serve: {in_words(error)}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
