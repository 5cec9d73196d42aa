"""`python -m tests.support.orchestrator.in_namespace`: becomes the module that HOST_MODULE names, inside the network
namespace that HOST_NAMESPACE names. What a launcher says of the address is forgotten: the worker finds out itself."""

import ctypes
import os
import sys

_CLONE_NEWNET = 0x40000000

if __name__ == "__main__":
    namespace, module = os.environ["HOST_NAMESPACE"], os.environ["HOST_MODULE"]
    os.environ.pop("DAPO_ADDRESS", None)
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        sys.exit(f"setns {namespace}: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.executable, [sys.executable, "-m", module])
