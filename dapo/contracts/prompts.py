"""Prompts as people and graders read them."""

from dapo.v1 import messages_pb2 as pb

ASSISTANT = "assistant"
"""Role of a turn of the model's."""


def prompt_text(prompt: pb.Prompt) -> str:
    """A prompt's text, or its messages as paragraphs, each after its role."""
    return prompt.text or "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


def is_started(prompt: pb.Prompt) -> bool:
    """Whether the last message is a turn of the model's, which the response continues."""
    return bool(prompt.messages) and prompt.messages[-1].role == ASSISTANT
