"""How many tokens a prompt has, by the model's own tokenizer and as the generators count."""

from collections.abc import Sequence
from typing import Any

from dapo.data.errors import DatasetError
from dapo.v1 import messages_pb2 as pb


class PromptTokens:
    """Needs the library transformers, which the generators bring. Raises DatasetError where it or the tokenizer is
    missing."""

    def __init__(self, model_path: str) -> None:
        try:
            from jinja2 import TemplateError
            from transformers import AutoTokenizer
        except ImportError as error:
            raise DatasetError(
                "counting tokens needs the library transformers: run pip install '.[generator]'"
            ) from error
        self._path = model_path
        self._refusal: type[Exception] = TemplateError
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{model_path} has no tokenizer that transformers can load: {error}") from error

    def count(self, prompts: Sequence[pb.Prompt]) -> list[int | None]:
        """Tokens of each prompt: text as it stands, messages through the chat template; None where the template
        refuses them. Raises DatasetError where there are messages and no template."""
        texts = [self._text(prompt) for prompt in prompts]
        known = [text for text in texts if text is not None]
        ids = self._tokenizer(known, add_special_tokens=False)["input_ids"] if known else []
        lengths = iter(map(len, ids))
        return [None if text is None else next(lengths) for text in texts]

    def _text(self, prompt: pb.Prompt) -> str | None:
        if not prompt.messages:
            return prompt.text
        if self._tokenizer.chat_template is None:
            raise DatasetError(
                f"{self._path} has no chat template, but the prompts are messages. Use a model with a template"
            )
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        try:
            text: str = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except self._refusal:
            return None
        return text
