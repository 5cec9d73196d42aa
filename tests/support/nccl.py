"""Which NCCL this process runs with, and whether two of its ranks may share a GPU."""

import ctypes
import os

SHARING = "NCCL_MULTI_RANK_GPU_ENABLE"


def nccl_version() -> tuple[int, int, int]:
    """Of the library that is loaded; torch tells which one it was built with. Import torch first."""
    found = ctypes.c_int()
    ctypes.CDLL("libnccl.so.2").ncclGetVersion(ctypes.byref(found))
    return found.value // 10_000, found.value // 100 % 100, found.value % 100


def may_share_a_gpu() -> bool:
    """NCCL 2.30 or newer, and the environment allows it."""
    return nccl_version() >= (2, 30) and os.environ.get(SHARING) == "1"
