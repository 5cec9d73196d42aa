"""Prompts as people and graders read them."""

from dapo.v1 import messages_pb2 as pb

ASSISTANT = "assistant"
"""Role of a turn of the model's."""
_WORD_CHARACTERS = 64


def prompt_text(prompt: pb.Prompt) -> str:
    """A prompt's text, or its messages as paragraphs, each after its role."""
    return prompt.text or "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


def begun_response(prompt: pb.Prompt, prompt_end: str) -> str:
    """What a prompt has written of the response already: its started turn, or else its last word, which is `prompt_end`
    where it is messages in the form of a chat template."""
    if prompt.messages:
        return prompt.messages[-1].content if is_started(prompt) else prompt_end
    return last_word(prompt.text)


def last_word(text: str) -> str:
    """Empty where there is none."""
    words = text[-_WORD_CHARACTERS:].split()
    return words[-1] if words else ""


def is_started(prompt: pb.Prompt) -> bool:
    """Whether the last message is a turn of the model's, which the response continues."""
    return bool(prompt.messages) and prompt.messages[-1].role == ASSISTANT
