"""Prompts as people and graders read them."""

from dapo.v1 import messages_pb2 as pb


def prompt_text(prompt: pb.Prompt) -> str:
    """A prompt's text, or its messages as paragraphs, each after its role."""
    return prompt.text or "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)
