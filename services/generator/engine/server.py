"""The SGLang server as a child process: started, watched and killed by its generator; on loopback only."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Protocol

from dapo.host.devices import visible_cuda_devices
from dapo.host.ports import HOST, free_port
from dapo.host.processes import PARENT_VARIABLE
from dapo.spec import RunSpec
from dapo.spec.tree.resources import Device
from services.generator.engine.client import Endpoint, Engine
from services.generator.engine.kv_pool import memory_bytes, pool_tokens, token_bytes
from services.generator.engine.served_model import UnservableModel, check_served, read_config
from services.generator.weights.member import FIXED_VERSION, version_name

CPU_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1073741824"
"""Large temporaries stay mapped, else each costs page faults that take longer than its use; and huge pages (glibc 2.35
or newer) spare the scattered reads of the KV pool most misses of the TLB."""
KEEP_ALIVE_S = 5
"""How long SGLang keeps an idle connection; the client drops its own sooner."""
BASE_VERSION = "base"
"""What SGLang calls its weights until the learner's first broadcast."""
HEALTH_POLL_S = 0.5
LOG_TAIL_LINES = 30


class ServerError(Exception):
    """The engine server did not come up. The message ends with the tail of its log."""


class EngineServer(Protocol):
    """What a generator needs of the server beside it."""

    async def start(self) -> Endpoint:
        """Start it and wait until it is healthy. Raises ServerError."""

    async def wait_exit(self) -> str:
        """Return, with the reason, once a started server has gone by itself."""

    async def kill(self) -> None:
        """End it at once with all its processes; harmless where none runs."""


def pick_device(wanted: Device, tensor_parallel: int) -> str:
    """ "cuda" or "cpu". Raises ServerError for a device that is not there, or cannot hold a split model."""
    present = bool(visible_cuda_devices())
    if wanted == "cuda" and not present:
        raise ServerError("resources.generator.device is cuda, but no CUDA device is visible; use auto or cpu")
    device = "cuda" if present and wanted != "cpu" else "cpu"
    if device == "cpu" and tensor_parallel > 1:
        raise ServerError(
            f"resources.generator.tensor_parallel = {tensor_parallel} splits a model over GPUs, but the generator runs "
            f"on the CPU (resources.generator.device = {wanted}); set tensor_parallel to 1, or make GPUs visible"
        )
    return device


def pool_size(spec: RunSpec, device: str) -> int | None:
    """Tokens of the KV pool; None where SGLang sizes it. Raises UnservableModel."""
    config = read_config(spec.model.path)
    check_served(spec, config, device)
    if spec.resources.generator.max_total_tokens is not None or device != "cpu":
        return spec.resources.generator.max_total_tokens
    return pool_tokens(spec, token_bytes(config, spec.model.dtype), memory_bytes())


def server_flags(spec: RunSpec, *, device: str, port: int, pool: int | None) -> list[str]:
    """SGLang's command line for `device` ("cpu" or "cuda"), keys aside. `pool` in tokens, None: SGLang sizes it."""
    generator = spec.resources.generator
    flags = [
        *("--model-path", spec.model.path),
        *("--host", HOST),
        *("--port", str(port)),
        *("--device", device),
        *("--dtype", spec.model.dtype),
        # Token ids go in and come out; text is the generator's business.
        "--skip-tokenizer-init",
        "--incremental-streaming-output",
        *("--stream-interval", str(generator.stream_interval)),
        *("--max-running-requests", str(generator.max_running_requests)),
        *("--weight-version", BASE_VERSION if spec.training.steps else version_name(FIXED_VERSION)),
        # Prompts come in the order in which their batches are due.
        *("--schedule-policy", "fcfs"),
        *("--log-level", "warning"),
    ]
    if device == "cpu":
        # An idle scheduler otherwise spins on a core that the learner could use.
        flags += ["--disable-overlap-schedule", "--sleep-on-idle"]
    else:
        flags += ["--tp-size", str(generator.tensor_parallel)]
    if not (generator.prefix_cache if generator.prefix_cache is not None else device != "cpu"):
        flags.append("--disable-radix-cache")
    if pool is not None:
        flags += ["--max-total-tokens", str(pool)]
    return flags


def server_environment(spec: RunSpec, *, device: str) -> dict[str, str]:
    """What the server's environment holds beyond this process's own."""
    extra = {PARENT_VARIABLE: str(os.getpid()), "SGLANG_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S)}
    if Path(spec.model.path).is_dir():
        extra["HF_HUB_OFFLINE"] = "1"
    if device == "cpu":
        # More threads a process are many times slower for small models, and starve the learner.
        extra["OMP_NUM_THREADS"] = "1"
        # The user's own come last, so they win.
        extra["GLIBC_TUNABLES"] = ":".join(filter(None, (CPU_MALLOC, os.environ.get("GLIBC_TUNABLES"))))
        # SGLang takes the CPU platform only where it sees no GPU.
        extra["CUDA_VISIBLE_DEVICES"] = ""
    return extra


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    with path.open(errors="replace") as log:
        return "".join(deque(log, lines)).strip()


class SglangServer:
    """One SGLang server at a time, in a session of its own. Implements EngineServer."""

    def __init__(self, spec: RunSpec, *, device: str, log_path: Path) -> None:
        self._spec = spec
        self._device = device
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Endpoint:
        if self._process is not None:
            raise RuntimeError("the SGLang server is running already")
        port = free_port()
        # Hexadecimal, as SGLang would take a key that begins with a dash for an option.
        endpoint = Endpoint(f"http://{HOST}:{port}", secrets.token_hex(32), secrets.token_hex(32))
        # Keys on a command line could be read by every user of the machine.
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="dapo-sglang-") as keys:
            keys.write(f"api-key: {endpoint.api_key}\nadmin-api-key: {endpoint.admin_key}\n")
            keys.flush()
            self._process = await self._spawn(port, Path(keys.name))
            try:
                async with asyncio.timeout(self._spec.resources.generator.start_deadline_s):
                    await self._wait_healthy(endpoint)
            except TimeoutError as error:
                await self.kill()
                deadline = self._spec.resources.generator.start_deadline_s
                raise ServerError(
                    f"SGLang was not healthy within resources.generator.start_deadline_s = {deadline:g} s; "
                    f"raise it, or read {self._log_path}, which ends:\n{log_tail(self._log_path)}"
                ) from error
        return endpoint

    async def wait_exit(self) -> str:
        if self._process is None:
            raise RuntimeError("no SGLang server was started")
        code = await self._process.wait()
        return f"SGLang exited with code {code}; {self._log_path} ends:\n{log_tail(self._log_path)}"

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # SGLang's workers share the leader's session and may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    async def _spawn(self, port: int, keys: Path) -> asyncio.subprocess.Process:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pool = await asyncio.to_thread(pool_size, self._spec, self._device)
        except UnservableModel as error:
            raise ServerError(str(error)) from error
        flags = server_flags(self._spec, device=self._device, port=port, pool=pool)
        with self._log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.generator.engine.serve", *flags, "--config", str(keys)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **server_environment(self._spec, device=self._device)},
                start_new_session=True,
            )

    async def _wait_healthy(self, endpoint: Endpoint) -> None:
        assert self._process is not None
        engine = Engine(endpoint)
        try:
            while not await engine.healthy(timeout_s=30.0):
                if self._process.returncode is not None:
                    reason = await self.wait_exit()
                    await self.kill()
                    raise ServerError(f"SGLang did not start: {reason}")
                await asyncio.sleep(HEALTH_POLL_S)
        finally:
            await engine.close()
