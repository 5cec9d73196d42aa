"""Prompts to token ids and token ids to text, with the model's tokenizer; limits on lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from dapo.data.tokens import PromptEncoder, PromptRefused
from dapo.v1 import messages_pb2 as pb

_CONTEXT_RESERVE_TOKENS = 2
"""SGLang ends a sequence this many tokens before the model's context is full."""


class PromptError(Exception):
    """Nothing can be generated from this prompt. `reason` is what the ledger records."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def stop_ids(*sources: int | Sequence[int] | None) -> tuple[int, ...]:
    """End-of-sequence ids of all sources, each once, in ascending order."""
    found: set[int] = set()
    for source in sources:
        if source is not None:
            found.update([source] if isinstance(source, int) else source)
    return tuple(sorted(found))


@dataclass(frozen=True)
class LengthLimits:
    prompt_tokens: int
    response_tokens: int
    context_tokens: int

    def check(self, prompt_tokens: int) -> None:
        """Raises PromptError where a prompt of so many tokens leaves no room for a full response."""
        if prompt_tokens == 0:
            raise PromptError("prompt_empty", "the prompt has no tokens")
        if prompt_tokens > self.prompt_tokens:
            detail = f"{prompt_tokens} tokens > data.max_prompt_tokens = {self.prompt_tokens}"
            raise PromptError("prompt_too_long", detail)
        if prompt_tokens + self.response_tokens + _CONTEXT_RESERVE_TOKENS > self.context_tokens:
            raise PromptError(
                "prompt_too_long",
                f"{prompt_tokens} prompt tokens + sampling.max_response_tokens = {self.response_tokens} exceed the "
                f"model's context of {self.context_tokens} tokens, of which SGLang uses all but "
                f"{_CONTEXT_RESERVE_TOKENS}",
            )


class PromptCodec:
    """Encodes prompts and decodes responses of one model."""

    def __init__(self, model_path: str) -> None:
        """Raises OSError where the model has no tokenizer or configuration."""
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path)
        self._prompts = PromptEncoder(self._tokenizer, model_path)
        config = AutoConfig.from_pretrained(model_path).get_text_config()
        generation_eos = None
        if (Path(model_path) / "generation_config.json").is_file() or not Path(model_path).is_dir():
            generation_eos = GenerationConfig.from_pretrained(model_path).eos_token_id
        self.context_tokens: int = config.max_position_embeddings
        self.stop_token_ids = stop_ids(config.eos_token_id, generation_eos, self._tokenizer.eos_token_id)
        """Tokens that end a response."""

    def encode(self, prompt: pb.Prompt) -> list[int]:
        """Token ids, see PromptEncoder.

        Raises PromptError where the template refuses the messages, ValueError where the model has no template.
        """
        [ids] = self._prompts.encode([prompt])
        if isinstance(ids, PromptRefused):
            raise PromptError("prompt_refused", str(ids)) from ids
        return ids

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Text for the verifier, special tokens left out."""
        texts: list[str] = self._tokenizer.batch_decode(list(responses), skip_special_tokens=True)
        return texts
