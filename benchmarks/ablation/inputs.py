"""Base models and data, made once and kept in the benchmark's folder."""

import subprocess
import sys
from pathlib import Path

from dapo.host.processes import child_environment

from .runs import ENVIRONMENT
from .variants import TASKS

_HERE = Path(__file__).resolve().parent
_LEARNER_IMPORTS = (
    "import services.learner.loop, services.learner.step.trainer; print(open('/proc/self/status').read())"
)


def make_inputs(folder: Path, task: str) -> Path:
    """Folder with the task's model/ and train.jsonl."""
    inputs = folder / "inputs" / task
    if not (inputs / "model" / "model.safetensors").exists():
        _python("-m", "services.learner.starters.toy", str(inputs), *TASKS[task].toy)
    return inputs


def make_wide_inputs(folder: Path, millions: float) -> Path:
    """A random model of about `millions` of parameters, with the data of the task `reverse`."""
    inputs = folder / "inputs" / f"wide-{millions:g}m"
    if not (inputs / "model" / "model.safetensors").exists():
        _python(str(_HERE / "wide_model.py"), str(inputs), str(millions))
    return inputs


def weight_bytes(inputs: Path) -> int:
    """Of the model's parameters in float32."""
    return (inputs / "model" / "model.safetensors").stat().st_size


def import_peak_bytes() -> int:
    """Peak resident memory of a process that has only imported what the learner imports."""
    status = _python("-c", _LEARNER_IMPORTS).splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def _python(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], check=True, env=child_environment(ENVIRONMENT), stdout=subprocess.PIPE, text=True
    ).stdout
