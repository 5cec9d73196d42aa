"""A real HTTP server that answers as a test wants."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn


class Answer(NamedTuple):
    body: Any = None
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    delay_s: float = 0.0


class Service:
    """`calls` are the bodies that came, `headers` those of the last one."""

    def __init__(self, answer: Callable[[int, Any], Answer]) -> None:
        self._answer = answer
        self.calls: list[Any] = []
        self.times: list[float] = []
        self.headers: dict[str, str] = {}
        self.path = ""
        self.busy = self.busiest = 0
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body") or message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.calls.append(json.loads(body))
        self.times.append(time.monotonic())
        self.path = scope["path"]
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        answer = self._answer(len(self.calls), self.calls[-1])
        await asyncio.sleep(answer.delay_s)
        self.busy -= 1
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@contextmanager
def serving(answer: Callable[[int, Any], Answer], host: str = "127.0.0.1") -> Iterator[Service]:
    """`answer` gets the number of the call, from 1, and its body."""
    service = Service(answer)
    config = uvicorn.Config(service, host=host, port=0, lifespan="off", log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        service.url = f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        yield service
    finally:
        server.should_exit = True
        thread.join()
