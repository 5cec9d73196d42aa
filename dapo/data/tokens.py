"""From prompts to token ids, with the model's own tokenizer: the one way, for generators and for whoever counts."""

import json
from collections.abc import Sequence
from typing import Any

from dapo.contracts.prompts import is_started
from dapo.data.errors import DatasetError
from dapo.v1 import messages_pb2 as pb


class PromptRefused(ValueError):
    """The model's chat template does not render these messages."""


class PromptEncoder:
    """Text gets the token that begins a sequence where the tokenizer itself adds one and the text does not hold it yet.
    Messages get what the chat template writes and nothing beside it, as in transformers."""

    def __init__(self, tokenizer: Any, model_path: str) -> None:
        """`tokenizer` is transformers'; `model_path` names the model in messages."""
        from jinja2 import TemplateError

        self._tokenizer = tokenizer
        self._path = model_path
        # A template may also fail in Python's own way, e.g. by adding text to an argument that is a number.
        self._refusals = (TemplateError, TypeError, ValueError)
        begin = tokenizer.bos_token_id
        adds_begin = begin is not None and tokenizer("")["input_ids"][:1] == [begin]
        self._begin: list[int] = [begin] if adds_begin else []

    def encode(self, prompts: Sequence[pb.Prompt]) -> list[list[int] | PromptRefused]:
        """Token ids of each prompt, or why the template refuses it. Raises DatasetError where there are messages and no
        template."""
        found = [self._render(prompt) if prompt.messages else prompt.text for prompt in prompts]
        texts = [text for text in found if isinstance(text, str)]
        encoded = iter(self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
        return [
            text if isinstance(text, PromptRefused) else self._begun(next(encoded), prompt)
            for text, prompt in zip(found, prompts, strict=True)
        ]

    def _begun(self, ids: list[int], prompt: pb.Prompt) -> list[int]:
        if prompt.messages or ids[: len(self._begin)] == self._begin:
            return ids
        return self._begin + ids

    def _render(self, prompt: pb.Prompt) -> str | PromptRefused:
        """Messages as the chat template writes them: with the head of a new turn, or a started turn left open."""
        if self._tokenizer.chat_template is None:
            raise DatasetError(
                f"model.path {self._path} has no chat template, but the prompts are messages. Set data.chat to false, "
                "or use a model with a template"
            )
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        continues = is_started(prompt)
        arguments = json.loads(prompt.chat_template_kwargs) if prompt.chat_template_kwargs else {}
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns,
                add_generation_prompt=not continues,
                continue_final_message=continues,
                tokenize=False,
                **arguments,
            )
        except self._refusals as error:
            # What follows shows the whole chat.
            reason = str(error).partition("Final message to continue:")[0]
            return PromptRefused(f"the model's chat template refuses the messages: {reason}")
        return text


class PromptTokens:
    """How many tokens prompts have. Needs the library transformers, which the generators bring. Raises DatasetError
    where it or the tokenizer is missing."""

    def __init__(self, model_path: str) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise DatasetError(
                "counting tokens needs the library transformers: run pip install '.[generator]'"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{model_path} has no tokenizer that transformers can load: {error}") from error
        self._encoder = PromptEncoder(self._tokenizer, model_path)

    def shown(self, prompt: pb.Prompt) -> str:
        """The text of a prompt's tokens, or why the chat template refuses it. Raises as `count`."""
        [ids] = self._encoder.encode([prompt])
        text: str = str(ids) if isinstance(ids, PromptRefused) else self._tokenizer.decode(ids)
        return text

    def count(self, prompts: Sequence[pb.Prompt]) -> list[int | None]:
        """Tokens of each prompt; None where the chat template refuses its messages. Raises DatasetError where there are
        messages and no template."""
        return [None if isinstance(ids, PromptRefused) else len(ids) for ids in self._encoder.encode(prompts)]
