"""The SGLang server as a child process of its generator, listening on loopback only."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Protocol

from dapo.environment import SERVICE_KEYS
from dapo.host.devices import visible_cuda_devices
from dapo.host.files import tail
from dapo.host.memory import total_bytes
from dapo.host.ports import HOST, free_port
from dapo.host.processes import child_environment, python_command
from dapo.spec import RunSpec
from dapo.spec.tree.resources import Device
from services.generator.engine.adapter_start import ADAPTER, adapter_environment, adapter_flags, write_empty_adapter
from services.generator.engine.client import EngineClient, EngineEndpoint
from services.generator.engine.kv_pool import pool_tokens, token_bytes
from services.generator.engine.model_check import UnsupportedModel, check_served, read_config
from services.generator.engine.spans import spans_environment
from services.generator.membership import FIXED_VERSION, version_name

_CPU_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1073741824"
"""Keep freed memory mapped, as page faults of large temporaries take longer than their use; and take huge pages (glibc
2.35 or newer), which avoid most TLB misses of reads from the KV pool."""
_KEEP_ALIVE_S = 5
"""SGLang closes idle connections after this time; the client drops them sooner."""
_BASE_VERSION = "base"
"""Version name of the weights that SGLang loaded itself, until the learner's first update."""
_HEALTH_POLL_S = 0.5
_ADAPTER_CURE = "\nIf its LoRA does not take this model, set lora.serving: merged"


class ServerError(Exception):
    """The engine server did not start. The message ends with the tail of its log."""


class EngineServer(Protocol):
    """What a generator needs of its engine server: SglangServer, or the simulator of the tests."""

    async def start(self) -> EngineEndpoint:
        """Start the server and wait until it is healthy. Raises ServerError."""

    async def wait_exit(self) -> str:
        """Return with the reason once a started server has exited."""

    async def kill(self) -> None:
        """Kill the server and all its processes. Does nothing where none runs."""


def engine_device(wanted: Device, tensor_parallel: int) -> str:
    """ "cuda" or "cpu". Raises ServerError if CUDA is wanted and absent, or tensor parallelism is wanted on a CPU."""
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
    """Tokens of the KV pool; None to let SGLang size it. Raises UnsupportedModel."""
    config = read_config(spec.model.path)
    check_served(spec, config, device)
    if spec.resources.generator.max_total_tokens is not None or device != "cpu":
        return spec.resources.generator.max_total_tokens
    return pool_tokens(spec, token_bytes(config, spec.model.dtype), total_bytes())


def server_flags(spec: RunSpec, *, device: str, port: int, pool: int | None, adapter: Path | None = None) -> list[str]:
    """SGLang's command line for `device` ("cpu" or "cuda"), keys aside. `pool` in tokens, None: SGLang sizes it.

    `adapter` is the directory of the LoRA adapter to begin with, where there is one.
    """
    generator = spec.resources.generator
    flags = [
        *("--model-path", spec.model.path),
        *("--host", HOST),
        *("--port", str(port)),
        *("--device", device),
        *("--dtype", spec.model.dtype),
        "--incremental-streaming-output",
        *("--stream-interval", str(generator.stream_interval)),
        *("--max-running-requests", str(generator.max_running_requests)),
        *("--weight-version", _BASE_VERSION if spec.training.steps else version_name(FIXED_VERSION)),
        # Prompts come in the order in which their batches are due.
        *("--schedule-policy", "fcfs"),
        *("--log-level", "warning"),
    ]
    if not spec.sampling.stop:
        # Token ids go in and come out; text is the generator's business.
        flags.append("--skip-tokenizer-init")
    if device == "cpu":
        # An idle scheduler otherwise spins on a core that the learner could use.
        flags += ["--disable-overlap-schedule", "--sleep-on-idle"]
    else:
        flags += ["--tp-size", str(generator.tensor_parallel)]
        if not all(name.isdecimal() for name in visible_cuda_devices()):
            # SGLang's own all-reduce reads the names of GPUs as numbers; NCCL's takes UUIDs and MIG devices, too.
            flags.append("--disable-custom-all-reduce")
    if not (generator.prefix_cache if generator.prefix_cache is not None else device != "cpu"):
        flags.append("--disable-radix-cache")
    if pool is not None:
        flags += ["--max-total-tokens", str(pool)]
    if adapter is not None:
        flags += adapter_flags(spec, adapter, device)
    return flags


def _wants_adapter(spec: RunSpec) -> bool:
    """See RunTree.serves_adapter. Raises UnsupportedModel where the model's configuration cannot be read."""
    return spec.lora.rank is not None and spec.serves_adapter(read_config(spec.model.path).model_type)


def server_environment(spec: RunSpec, *, device: str, adapter: bool = False) -> dict[str, str]:
    """Variables that the server gets beside those of this process. `adapter`: it starts with a LoRA adapter."""
    extra = {"SGLANG_TIMEOUT_KEEP_ALIVE": str(_KEEP_ALIVE_S), **spans_environment()}
    if Path(spec.model.path).is_dir():
        extra["HF_HUB_OFFLINE"] = "1"
    if adapter:
        extra |= adapter_environment()
    if device == "cpu":
        # More threads are many times slower for small models, and starve the learner.
        extra["OMP_NUM_THREADS"] = "1"
        # The user's tunables come last and so take precedence.
        extra["GLIBC_TUNABLES"] = ":".join(filter(None, (_CPU_MALLOC, os.environ.get("GLIBC_TUNABLES"))))
        # SGLang takes the CPU platform only where it sees no GPU.
        extra["CUDA_VISIBLE_DEVICES"] = ""
    return extra


class SglangServer:
    """One SGLang server at a time, in a process session of its own. Implements EngineServer.

    `start` picks a free port, makes two new API keys, hands them over in a folder that is deleted once the server is
    healthy, and waits at most `resources.generator.start_deadline_s`. `kill` ends the whole session, as SGLang's own
    workers may outlive their leader. The server also dies with this process (PR_SET_PDEATHSIG), so none is left behind
    and nothing survives a restart.
    """

    def __init__(self, spec: RunSpec, *, device: str, log_path: Path, metrics: bool = False) -> None:
        """`metrics`: it exports its own, at /metrics."""
        self._spec = spec
        self._metrics = metrics
        self._device = device
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._metrics_folder: str | None = None

    async def start(self) -> EngineEndpoint:
        if self._process is not None:
            raise RuntimeError("the SGLang server is running already")
        port = free_port()
        try:
            adapter = ADAPTER if await asyncio.to_thread(_wants_adapter, self._spec) else None
        except UnsupportedModel as error:
            raise ServerError(str(error)) from error
        # Hexadecimal: SGLang would take a key that begins with a dash for an option.
        endpoint = EngineEndpoint(f"http://{HOST}:{port}", secrets.token_hex(32), secrets.token_hex(32), adapter)
        with tempfile.TemporaryDirectory(prefix="dapo-sglang-") as directory:
            self._process = await self._spawn(port, endpoint, Path(directory))
            try:
                async with asyncio.timeout(self._spec.resources.generator.start_deadline_s):
                    await self._wait_healthy(endpoint)
            except TimeoutError as error:
                await self.kill()
                deadline = self._spec.resources.generator.start_deadline_s
                raise ServerError(
                    f"SGLang was not healthy within resources.generator.start_deadline_s = {deadline:g} s; "
                    f"raise it, or read {self._log_path}, which ends:\n{tail(self._log_path)}"
                ) from error
        return endpoint

    async def wait_exit(self) -> str:
        if self._process is None:
            raise RuntimeError("no SGLang server was started")
        code = await self._process.wait()
        return f"SGLang exited with code {code}; {self._log_path} ends:\n{tail(self._log_path)}"

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # SGLang's workers share the leader's session and may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if self._metrics_folder is not None:
            # Killed, it leaves it behind.
            shutil.rmtree(self._metrics_folder, ignore_errors=True)

    async def _spawn(self, port: int, endpoint: EngineEndpoint, directory: Path) -> asyncio.subprocess.Process:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pool = await asyncio.to_thread(pool_size, self._spec, self._device)
        except UnsupportedModel as error:
            raise ServerError(str(error)) from error
        # In a file, as every user of the machine can read a command line.
        keys = directory / "keys.yaml"
        keys.write_text(f"api-key: {endpoint.api_key}\nadmin-api-key: {endpoint.admin_key}\n")
        adapter = None if endpoint.adapter is None else directory
        if adapter is not None:
            write_empty_adapter(adapter, self._spec.lora)
        flags = server_flags(self._spec, device=self._device, port=port, pool=pool, adapter=adapter)
        if self._metrics:
            flags.append("--enable-metrics")
        environment = server_environment(self._spec, device=self._device, adapter=adapter is not None)
        if self._metrics:
            # Where its processes leave their numbers for the one that is asked.
            self._metrics_folder = environment["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="dapo-metrics-")
        with self._log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *python_command("services.generator.engine.sglang_main", *flags, "--config", str(keys)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(environment, without=SERVICE_KEYS),
                start_new_session=True,
            )

    async def _wait_healthy(self, endpoint: EngineEndpoint) -> None:
        assert self._process is not None
        engine = EngineClient(endpoint)
        try:
            while not await engine.healthy(timeout_s=30.0):
                if self._process.returncode is not None:
                    reason = await self.wait_exit()
                    await self.kill()
                    cure = "" if endpoint.adapter is None else _ADAPTER_CURE
                    raise ServerError(f"SGLang did not start: {reason}{cure}")
                await asyncio.sleep(_HEALTH_POLL_S)
        finally:
            await engine.close()
