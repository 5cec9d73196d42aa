"""Where the faces listen, and how an HTTP server runs beside the rest of this process."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Self

import uvicorn
from fastapi import FastAPI

from dapo.host.addresses import listen
from services.orchestrator.api.doors.tls import Tls

METRICS_OPTION = "--metrics-address"
_GRACE_S = 5


class HttpServer(uvicorn.Server):
    """One application on one socket. Leaves signals to whoever runs it, who first stops the runs."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listening = asyncio.Event()
        self.port: int = listener.getsockname()[1]
        self.serving = asyncio.create_task(self.serve(sockets=[listener]))

    @classmethod
    async def start(cls, app: FastAPI, listener: socket.socket, tls: Tls | None = None) -> Self:
        """Returns once it answers. Raises RuntimeError where it ends before."""
        listener.setblocking(False)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE_S, server_header=False
        )
        config.load()
        config.ssl = tls.rest() if tls is not None else None
        server = cls(config, listener)
        listening = asyncio.create_task(server._listening.wait())
        await asyncio.wait({listening, server.serving}, return_when=asyncio.FIRST_COMPLETED)
        if listening.cancel():
            server.serving.result()
            raise RuntimeError("the HTTP server ended before it had begun")
        return server

    async def stop(self) -> None:
        self.should_exit = True
        await self.serving

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()


@contextlib.contextmanager
def told(option: str, port: int, face: str) -> Iterator[None]:
    """Raises OSError that names the option where a face cannot listen."""
    try:
        yield
    except OSError as error:
        # gRPC, which comes second, does not say which.
        taken = error.errno in (None, errno.EADDRINUSE, errno.EACCES)
        host = "--host" if option != METRICS_OPTION else "HOST"
        cure = f"Take another {option}, or end what has this one" if taken else f"Give a {host} of this machine"
        raise OSError(f"{option} {port}: {face} cannot listen there ({error}). {cure}") from error


def listen_for(option: str, face: str, host: str, port: int) -> socket.socket:
    """Raises OSError that names the option."""
    with told(option, port, face):
        return listen(host, port)
