"""Which GPUs this machine has, found without importing torch."""

import fcntl
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_PREFIXES = ("GPU-", "MIG-")
_DRIVER = Path("/proc/driver/nvidia/gpus")
LOCKS = Path("/tmp/dapo-devices")
"""Of all users, run services and agents of the machine: one file a GPU, locked while a run or an agent has it."""


class DeviceError(ValueError):
    """CUDA_VISIBLE_DEVICES cannot mean what it says; the message says why and what to do."""


class Gpu(NamedTuple):
    """A whole GPU, as its driver tells."""

    model: str
    uuid: str


def visible_cuda_devices() -> tuple[str, ...]:
    """Names for CUDA_VISIBLE_DEVICES, as they were given: those that it allows, else the machine's GPUs from 0 on.

    A name is an index, a UUID or the beginning of one (`GPU-8932f937-…`), or a MIG device (`MIG-…`,
    `MIG-GPU-…/<instance>/<instance>`). Raises DeviceError for a name given twice.
    """
    allowed = os.environ.get(_VARIABLE)
    if allowed is not None:
        return parse_visible_devices(allowed)
    return tuple(map(str, range(count_gpus())))


def count_gpus() -> int:
    """Those of this machine or container, whatever CUDA_VISIBLE_DEVICES says. CUDA counts them from 0 on, whatever the
    numbers of the files."""
    return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*"))


def parse_visible_devices(allowed: str) -> tuple[str, ...]:
    """The names that CUDA takes of a value of CUDA_VISIBLE_DEVICES: all up to the first that is no device, e.g. -1, or
    that is not of the first one's kind. Raises DeviceError for a name given twice."""
    names: list[str] = []
    kind = None
    for name in (part.strip() for part in allowed.split(",")):
        if (found := _kind(name)) is None or found != (kind := kind or found):
            break
        if name in names:
            raise DeviceError(
                f"{_VARIABLE}={allowed} names {name} twice, and CUDA shows no GPU at all then. Name each once"
            )
        names.append(name)
    return tuple(names)


def _kind(name: str) -> str | None:
    """Index, GPU or MIG; None for what names no device."""
    if re.match(r"\+?\d", name):
        return "index"
    return next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)


def device_names() -> list[str]:
    """The visible GPUs as `<host name>/<device>`, so that the lists of two processes show whether they share a GPU.

    A device has one name, however CUDA_VISIBLE_DEVICES calls it (`device_identity`).
    """
    gpus = driver_gpus()
    return [f"{socket.gethostname()}/{device_identity(device, gpus)}" for device in visible_cuda_devices()]


def driver_gpus(driver: Path = _DRIVER) -> list[Gpu]:
    """The machine's GPUs in the order of their PCI addresses; none where the driver does not tell."""
    try:
        texts = [(folder / "information").read_text() for folder in sorted(driver.iterdir())]
    except OSError:
        return []
    facts = [dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)) for text in texts]
    return [Gpu(fact.get("Model", ""), fact["GPU UUID"]) for fact in facts if "GPU UUID" in fact]


def device_identity(name: str, gpus: Sequence[Gpu]) -> str:
    """The full UUID of the GPU that `name` means among the machine's `gpus`; `name` itself where that is not certain.

    An index is certain where CUDA counts in the order of PCI addresses: with GPUs of one model, or CUDA_DEVICE_ORDER.
    """
    in_order = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.model for gpu in gpus}) == 1
    if name.isdecimal():
        return gpus[int(name)].uuid if in_order and int(name) < len(gpus) else name
    if name.startswith("GPU-"):
        meant = [gpu.uuid for gpu in gpus if gpu.uuid.startswith(name)]
        return meant[0] if len(meant) == 1 else name
    return name


def lock_device(identity: str, folder: Path = LOCKS) -> int | None:
    """A descriptor that holds the GPU, whatever others call it; None where somebody else does. See device_identity."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', identity)}.lock"
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # Another user's file may be read, and a lock needs no more; the kernel may refuse to create over it.
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o644)
        os.fchmod(descriptor, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
