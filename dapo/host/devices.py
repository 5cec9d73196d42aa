"""Which GPUs this machine has, found without importing torch."""

import os
import re
import socket
from pathlib import Path


def visible_cuda_devices() -> tuple[str, ...]:
    """Names for CUDA_VISIBLE_DEVICES: those the environment allows, else the machine's NVIDIA devices by number."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        # CUDA stops at the first invalid name; -1 is the usual way to write "none".
        return tuple(name for name in names if name and name != "-1")
    numbers = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return tuple(sorted((match[1] for match in numbers if match), key=int))


def device_names() -> list[str]:
    """The visible GPUs as `<host name>/<device>`, so that the lists of two processes show whether they share a GPU."""
    return [f"{socket.gethostname()}/{device}" for device in visible_cuda_devices()]
