"""Generators beside simulated engines, as processes that can be killed and stopped."""

import asyncio
import os
import sys
from pathlib import Path

from tests.support.paths import REPO


async def start_worker(redis_url: str, run_id: str, worker_id: str, run_dir: Path) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "DAPO_REDIS_URL": redis_url,
        "DAPO_RUN_ID": run_id,
        "DAPO_WORKER_ID": worker_id,
        "DAPO_RUN_DIR": str(run_dir),
        "SIM_STEP_S": "0.05",
        "SIM_MEAN_TOKENS": "30",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.simulator.worker", env=environment, cwd=REPO
    )
