"""`python -m services.learner.export RUN_DIR OUT` writes the run's newest checkpoint as a Hugging Face directory.

Every checkpoint holds the whole model in that format, so this only checks and copies; it needs neither the learner's
ranks nor its device.
"""

import argparse
import shutil
import sys
from pathlib import Path

from services.learner.checkpoint import CheckpointError, read_latest


def export(run_dir: Path, target: Path) -> int:
    """Copy the newest checkpoint's model to `target`; returns its step.

    Raises CheckpointError when there is no usable checkpoint, FileExistsError when `target` is not empty.
    """
    latest = read_latest(run_dir)
    if latest is None:
        raise CheckpointError(f"{run_dir} has no checkpoint yet; see checkpoint.every_steps")
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; give a new directory")
    directory, manifest = latest
    shutil.copytree(directory / "hf", target, dirs_exist_ok=True)
    return manifest.step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        step = export(arguments.run_dir, arguments.out)
    except (CheckpointError, FileExistsError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"model of step {step}: {arguments.out}\n")


if __name__ == "__main__":
    main()
