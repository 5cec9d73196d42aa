"""`python -m services.generator.engine.sglang_main FLAGS`: become an SGLang server that dies with its parent."""

import os
import signal
import sys

from dapo.host.processes import die_with_parent, python_command


def main() -> None:
    die_with_parent(signal.SIGKILL)
    # The death signal outlives exec, and SGLang's own children ask for theirs.
    os.execv(sys.executable, python_command("sglang.launch_server", *sys.argv[1:]))


if __name__ == "__main__":
    main()
