"""Prompts to token ids, with the model's tokenizer; limits on lengths."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dapo.algo.vocabulary import end_ids, tokenless_ids
from dapo.bus.failures import FailureReason
from dapo.data.tokens import PromptEncoder, PromptRefused
from dapo.v1 import messages_pb2 as pb
from services.generator.texts import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptError(Exception):
    """Nothing can be generated from this prompt. `reason` is what the ledger records."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def check_length(prompt_tokens: int, limit: int) -> None:
    """Raises PromptError for a prompt without tokens, or with more than `data.max_prompt_tokens` = limit."""
    if prompt_tokens == 0:
        raise PromptError(FailureReason.PROMPT_EMPTY, "the prompt has no tokens")
    if prompt_tokens > limit:
        raise PromptError(FailureReason.PROMPT_TOO_LONG, f"{prompt_tokens} tokens > data.max_prompt_tokens = {limit}")


def leave_torch_out() -> None:
    """Have transformers load no torch in this process, as on a machine without: its tokenizers need none.

    A generator starts some three seconds sooner for it, and is 350 MB smaller. To be called before transformers is
    imported; torch cannot be imported afterwards.
    """
    sys.modules["torch"] = None  # type: ignore[assignment]
    # Else it tells on stderr that models will not be available.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


class PromptCodec:
    """Encodes prompts of one model."""

    def __init__(self, model_path: str) -> None:
        """Raises OSError where the model has no tokenizer or configuration."""
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path)
        self._prompts = PromptEncoder(self.tokenizer, model_path)
        config = AutoConfig.from_pretrained(model_path).get_text_config()
        generation_eos = None
        if (Path(model_path) / "generation_config.json").is_file() or not Path(model_path).is_dir():
            generation_eos = GenerationConfig.from_pretrained(model_path).eos_token_id
        self.stop_token_ids = end_ids(config.eos_token_id, generation_eos, self.tokenizer.eos_token_id)
        """Tokens that end a response."""
        tokens = self.tokenizer.get_vocab().values()
        self.masked_ids = tokenless_ids(tokens, config.vocab_size, self.stop_token_ids)
        """Ids that must not be sampled, as they have no text."""

    def hidden_ids(self, *, every_special: bool) -> set[int]:
        """Tokens that graders do not read: those that end a response and padding, or every special one besides."""
        padding = self.tokenizer.pad_token_id
        hidden = {*self.stop_token_ids, *([] if padding is None else [padding])}
        return hidden | special_ids(self.tokenizer) if every_special else hidden

    def encode(self, prompt: pb.Prompt) -> list[int]:
        """Token ids, see PromptEncoder.

        Raises PromptError where the template refuses the messages, ValueError where the model has no template.
        """
        [ids] = self._prompts.encode([prompt])
        if isinstance(ids, PromptRefused):
            raise PromptError(FailureReason.PROMPT_REFUSED, str(ids)) from ids
        return ids
