"""What the generator's own process is made of."""

import subprocess
import sys
from pathlib import Path

from tests.support.models import save_model
from tests.support.paths import REPO

_LOADS = """
import sys
from services.generator.__main__ import generate
from services.generator.engine.server import pool_size
from services.generator.tokens import PromptCodec, leave_torch_out
leave_torch_out()
from services.generator.engine.model_check import read_config
codec = PromptCodec(sys.argv[1])
read_config(sys.argv[1])
print(codec.stop_token_ids, [name for name, module in sys.modules.items() if name.startswith("torch") and module])
"""


def test_a_generator_loads_its_tokenizer_and_configuration_without_torch(tmp_path: Path) -> None:
    save_model(tmp_path, seed=0)
    told = subprocess.run(
        [sys.executable, "-c", _LOADS, str(tmp_path)], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.endswith(" []\n"), told.stdout
    assert not told.stderr
