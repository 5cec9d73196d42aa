"""A simulated engine: SGLang's HTTP surface with chosen latencies and lengths, and no model.

All running requests advance by one token a step, as decoding does; each token belongs to the version that is set
at that step. Responses depend on the seed and the request id alone. Routes can be told to hang or to fail.

`python -m tests.support.simulator.engine --port 30000` serves one by itself, until its parent ends.
"""

import argparse
import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from dapo.host.ports import HOST, free_port
from dapo.host.processes import die_with_parent
from services.generator.engine.client import EngineEndpoint
from tests.support.simulator.responses import SimulatedRequest, SimulatorOptions, sample

if TYPE_CHECKING:
    from tests.support.simulator.weights import ReceivedWeights

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# aiohttp takes 0 for "wait as long as it takes".
SHUTDOWN_S = 0.01
GENERATION_ROUTES = frozenset({"/generate", "/v1/loads"})


class SimulatedEngine:
    def __init__(self, options: SimulatorOptions, *, api_key: str = "", admin_key: str = "") -> None:
        self.options = options
        self.version = "base"
        self.calls: Counter[str] = Counter()
        """Requests by route."""
        self.hang: set[str] = set()
        """Routes that never answer."""
        self.fail: dict[str, int] = {}
        """Route -> how many of its next calls are refused with 500."""
        self.lose = 0
        """So many of the next requests vanish: nothing is ever heard of them."""
        self.frozen = False
        """Neither steps nor answers, as a process that was stopped."""
        self.inputs: dict[str, list[int]] = {}
        """Prompt and tokens so far of every request, by its id."""
        self.requests: dict[str, SimulatedRequest] = {}
        """Every request that it took, by its id."""
        self.sampled = 0
        """Tokens, so far."""
        self.tell_sampled: Callable[[int], object] = lambda count: None
        """Called after each step with the tokens sampled so far."""
        self._keys = {True: api_key, False: admin_key}
        self._requests: dict[str, SimulatedRequest] = {}
        self._paused = False
        self._groups: set[str] = set()
        self._updating = False
        self.weights: ReceivedWeights | None = None
        """What takes the weights; without it they are not looked at."""

    def app(self) -> web.Application:
        routes: dict[str, Handler] = {
            "/generate": self._generate,
            "/abort_request": self._abort,
            "/pause_generation": self._pause,
            "/continue_generation": self._continue,
            "/flush_cache": self._flush,
            "/init_weights_update_group": self._init_group,
            "/destroy_weights_update_group": self._destroy_group,
            "/begin_weight_update": self._begin,
            "/update_weights_from_distributed": self._update,
            "/end_weight_update": self._end,
        }
        app = web.Application(client_max_size=2**30)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/v1/loads", self._guard(self._loads)),
                *(web.post(path, self._guard(h)) for path, h in routes.items()),
            ]
        )
        app.cleanup_ctx.append(self._clock)
        return app

    def _guard(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            path = request.path
            self.calls[path] += 1
            key = self._keys[path in GENERATION_ROUTES]
            if key and request.headers.get("Authorization") != f"Bearer {key}":
                return web.json_response({"error": "Unauthorized"}, status=401)
            if path in self.hang or self.frozen:
                await asyncio.Event().wait()
            if self.fail.get(path, 0) > 0:
                self.fail[path] -= 1
                return web.json_response({"success": False, "message": "refused by the test"}, status=500)
            return await handler(request)

        return guarded

    async def _clock(self, app: web.Application) -> AsyncIterator[None]:
        steps = asyncio.create_task(self._run_steps())
        yield
        steps.cancel()

    async def _run_steps(self) -> None:
        while True:
            await asyncio.sleep(self.options.step_s)
            if not self._paused and not self.frozen:
                running = list(self._requests.values())[: self.options.max_running]
                for request in running:
                    self._step(request)
                if running:
                    self.sampled += len(running)
                    self.tell_sampled(self.sampled)

    def _step(self, request: SimulatedRequest) -> None:
        request.advance(self.version)
        if request.done == len(request.ids):
            del self._requests[request.rid]
            last = request.ids[-1]
            request.emit(
                {"type": "stop", "matched": last} if request.stop else {"type": "length", "length": request.done}
            )
        elif self.options.stream_interval == 1 or request.done % self.options.stream_interval == 1:
            request.emit(None)

    async def _metrics(self, request: web.Request) -> web.Response:
        """One of those that SGLang exports, under its name there."""
        name, labels = "sglang:num_running_reqs", 'model_name="simulated"'
        return web.Response(text=f"# TYPE {name} gauge\n{name}{{{labels}}} {len(self._requests)}\n")

    async def _health(self, request: web.Request) -> web.Response:
        self.calls["/health"] += 1
        if self.frozen:
            await asyncio.Event().wait()
        # SGLang says so after 20 s without a token of its own trial request.
        return web.Response(status=503 if self._paused else 200)

    async def _loads(self, request: web.Request) -> web.Response:
        waiting = len(self._requests) if self._paused else max(0, len(self._requests) - self.options.max_running)
        return web.json_response({"loads": [{"num_waiting_reqs": waiting}]})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        taken = [rid for rid in body["rid"] if rid in self._requests]
        if taken or len(body["rid"]) != len(body["input_ids"]):
            await self._send(answer, {"error": {"message": f"bad or duplicate request ids {taken}", "code": 400}})
        else:
            asked = list(zip(body["rid"], body["sampling_params"], strict=True))
            samples = [sample(self.options, rid, sampling) for rid, sampling in asked]
            self.inputs |= dict(zip(body["rid"], body["input_ids"], strict=True))
            self.requests |= {one.rid: one for one in samples}
            try:
                await self._stream(answer, samples)
            finally:
                for unfinished in samples:
                    self._requests.pop(unfinished.rid, None)
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def _stream(self, answer: web.StreamResponse, samples: list[SimulatedRequest]) -> None:
        merged: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for one in samples:
            one.events = merged
            if self.lose:
                self.lose -= 1
            else:
                self._requests[one.rid] = one
        index_of = {one.rid: index for index, one in enumerate(samples)}
        left = len(samples)
        while left:
            event = await merged.get()
            meta = event["meta_info"]
            left -= meta["finish_reason"] is not None
            await self._send(answer, {**event, "index": index_of[meta["id"]]})

    @staticmethod
    async def _send(answer: web.StreamResponse, event: dict[str, Any]) -> None:
        await answer.write(b"data: " + orjson.dumps(event) + b"\n\n")

    async def _abort(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        for place, rid in enumerate(list(self._requests)):
            if body.get("abort_all") or rid.startswith(body["rid"]):
                self._requests.pop(rid).abort(queued=self._paused or place >= self.options.max_running)
        return web.Response()

    async def _pause(self, request: web.Request) -> web.Response:
        self._paused = True
        return web.json_response({"status": "ok"})

    async def _continue(self, request: web.Request) -> web.Response:
        self._paused = False
        return web.json_response({"status": "ok"})

    async def _flush(self, request: web.Request) -> web.Response:
        return web.Response(text="Cache flushed.")

    async def _init_group(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if self.weights is not None:
            await asyncio.to_thread(self.weights.join, body)
        self._groups.add(body["group_name"])
        return self._done()

    async def _destroy_group(self, request: web.Request) -> web.Response:
        name = orjson.loads(await request.read())["group_name"]
        if name not in self._groups:
            return self._refuse("The group to be destroyed does not exist.")
        self._groups.discard(name)
        if self.weights is not None:
            await asyncio.to_thread(self.weights.leave, name)
        return self._done()

    async def _begin(self, request: web.Request) -> web.Response:
        self._updating = True
        return self._done()

    async def _update(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if not self._updating:
            return self._refuse("update_weights_from_distributed must run between begin and end")
        if body["group_name"] not in self._groups:
            return self._refuse(f"Group {body['group_name']} not in {sorted(self._groups)}")
        if self.weights is not None:
            await asyncio.to_thread(self.weights.receive, body)
        await asyncio.sleep(self.options.bucket_s)
        if body["weight_version"] is not None:
            self.version = body["weight_version"]
        return self._done()

    async def _end(self, request: web.Request) -> web.Response:
        if not self._updating:
            return self._refuse("no weight-update session is open; call begin_weight_update() first")
        self._updating = False
        return self._done()

    @staticmethod
    def _done() -> web.Response:
        return web.json_response({"success": True, "message": "Success"})

    @staticmethod
    def _refuse(message: str) -> web.Response:
        return web.json_response({"success": False, "message": message}, status=400)


class SimulatedServer:
    """An EngineServer whose engine runs in this process. Each start makes a fresh engine."""

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self.starts = 0
        self.engine = SimulatedEngine(self.options)
        self._runner: web.AppRunner | None = None
        self._gone = asyncio.Event()

    async def start(self) -> EngineEndpoint:
        await asyncio.sleep(self.options.start_s)
        self.starts += 1
        self._gone = asyncio.Event()
        port = free_port()
        self.engine = SimulatedEngine(self.options, api_key="generation", admin_key="control")
        self._runner = web.AppRunner(
            self.engine.app(), access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port).start()
        return EngineEndpoint(f"http://{HOST}:{port}", "generation", "control")

    async def wait_exit(self) -> str:
        await self._gone.wait()
        return "the simulated engine crashed"

    async def kill(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            # aiohttp swallows a cancellation that meets its shutdown; the caller's must reach the caller.
            await asyncio.shield(asyncio.create_task(runner.cleanup()))
        self._gone.set()

    async def crash(self) -> None:
        """Go away as a server does that dies by itself."""
        await self.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--options", default="{}", help="fields of SimulatorOptions as a JSON object")
    parser.add_argument(
        "--count-in", type=Path, help="write the number of tokens sampled so far to a new file in there"
    )
    parser.add_argument(
        "--receive-in", type=Path, help="take the weights, and write their hashes to a new file in there"
    )
    flags = parser.parse_args()
    die_with_parent(signal.SIGKILL)
    engine = SimulatedEngine(SimulatorOptions(**orjson.loads(flags.options)))
    name = f"{os.getpid()}-{time.time_ns()}"
    if flags.receive_in is not None:
        # Torch takes seconds to import.
        from tests.support.simulator.weights import ReceivedWeights

        engine.weights = ReceivedWeights(flags.receive_in / name)
    if flags.count_in is not None:
        file = os.open(flags.count_in / name, os.O_CREAT | os.O_WRONLY)
        engine.tell_sampled = lambda count: os.pwrite(file, b"%020d" % count, 0)
    web.run_app(engine.app(), host=HOST, port=flags.port, access_log=None, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
