"""Starts workers as child processes that write a log."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from dapo.environment import SERVICE_KEYS
from dapo.host.processes import child_environment, python_command


async def start_logged(
    module: str, environment: Mapping[str, str], log: Path, inherited: Sequence[int] = ()
) -> asyncio.subprocess.Process:
    """`python -m module` as the leader of a session of its own, whose output is added to `log`. `environment`: beyond
    this process's own, of which the service's keys are left out. `inherited`: descriptors that it gets. Raises OSError.
    """
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *python_command(module),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment(environment, without=SERVICE_KEYS),
            start_new_session=True,
            pass_fds=inherited,
        )
