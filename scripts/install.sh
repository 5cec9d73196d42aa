#!/usr/bin/env bash
# Creates .venv with everything a run needs. On a machine with an NVIDIA GPU sglang brings its CUDA wheels;
# elsewhere sglang is installed without them and served through dapo's own CPU platform.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "dapo needs Python 3.11 or newer; $python is $("$python" -V). Set PYTHON=/path/to/python3.11." >&2
  exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
constraints=(-c requirements/cpu-lock.txt)
if command -v nvidia-smi >/dev/null 2>&1; then constraints=(); fi
pip() { .venv/bin/python -m pip --disable-pip-version-check install -qq "${constraints[@]}" "$@"; }
step() { echo "[$1/5] $2"; }

step 1 "torch (the first time a few minutes for everything)"
pip torch==2.13.0 numpy setuptools wheel
if [ ${#constraints[@]} -eq 0 ]; then
  step 2 "sglang for CUDA"
  pip "sglang==0.5.21"
else
  step 2 "what sglang imports on CPU"
  pip -r requirements/sglang-cpu.txt
  step 3 "sglang for CPU"
  # torchvision: transformers only asks whether it is there, and 0.28 fails to import on CPU torch.
  pip --no-deps torchvision==0.16.2 timm==1.0.16 sglang==0.5.21
fi
step 4 "DeepSpeed and the tools"
pip deepspeed==0.19.8 peft gguf accelerate
# --no-build-isolation keeps torch out of a build environment of its own.
pip --no-build-isolation -e ".[dev,oracle,graders,tracking,kubernetes,object-store]"
# A server of S3 for tests, apart: its botocore wants an older python-dateutil than the package kubernetes.
{ "$python" -m venv .venv/s3 && .venv/s3/bin/python -m pip --disable-pip-version-check install -qq -r requirements/s3-server.txt; } ||
  echo "moto is left out, and with it the tests of checkpoint.mirror" >&2
pip --no-build-isolation -e ".[reasoning-gym]" || echo "reasoning-gym is left out, and with it one grader: it needs a C compiler" >&2
step 5 "done: .venv/bin/dapo --help"
