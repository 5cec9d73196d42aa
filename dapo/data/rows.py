"""From a raw row, as a file holds it, to a prompt with its gold answer."""

import hashlib
import json
import math
import re
from typing import Any, NamedTuple

from dapo.contracts.prompts import ASSISTANT
from dapo.data.errors import RowError
from dapo.spec.tree.data import SourceSpec
from dapo.v1 import messages_pb2 as pb

HASH_BYTES = 16
MEDIA = frozenset(
    [f"{name}{end}" for name in ("image", "video", "audio") for end in ("", "s", "_url", "_urls", "_path", "_paths")]
    + ["decoded_image"]
)
"""Columns, in lower case, that hold what no text prompt shows."""
_PYTHON_MESSAGES = re.compile(r"\s*\[\s*\{\s*'(role|content)'\s*:")


class Fields(NamedTuple):
    """Names of the fields of a row; a name with dots reaches into objects."""

    schema: str
    """How the fields were found: `verl`, `TRL`, `GSM8K`, … or `as set`."""
    prompt: str
    gold: str
    gold_after: str | None = None
    grader: str | None = None

    @property
    def columns(self) -> list[str]:
        """Of the top level, as far as the dots in a name tell."""
        return [part for name in (self.prompt, self.gold, self.grader) if name for part in (name, name.split(".")[0])]


class Row(NamedTuple):
    row_id: str
    """File and line, e.g. `train.jsonl:12`; unique within a dataset."""
    prompt: pb.Prompt
    gold: str
    """Text as it stands, a number as Python writes it, any other JSON value as compact JSON."""
    grader: str | None
    """Name of the row's grader, else of its source's; None where neither has one."""
    source: str


def build_row(raw: dict[str, Any], fields: Fields, spec: SourceSpec, *, row_id: str, source: str) -> Row:
    """Raises RowError naming the field and what it holds."""
    if not spec.ignore_media and (column := media_column(raw, fields)) is not None:
        raise RowError(media_refusal(column))
    prompt = _prompt(read_prompt(raw, fields.prompt), fields.prompt, spec)
    gold = _gold(find(raw, fields.gold), fields)
    return Row(row_id, prompt, gold, _grader(raw, fields.grader) or spec.grader, source)


def prompt_hash(raw: dict[str, Any], field: str) -> bytes:
    """A hash of HASH_BYTES, equal for prompts of the same words: runs of white space count as one space.

    It covers the row's own prompt, without template, system prompt and system messages, so a question has the same hash
    as text and as a user's message. The row must have passed `build_row`.
    """
    value = read_prompt(raw, field)
    texts = [value] if isinstance(value, str) else [one["content"] for one in value if one["role"] != "system"]
    words = "\n".join(" ".join(text.split()) for text in texts)
    return hashlib.blake2b(words.encode(), digest_size=HASH_BYTES).digest()


def is_held_out(prompt: bytes, share: float) -> bool:
    """Whether the prompt with this hash belongs to the held-out `share`. Depends on nothing else."""
    return int.from_bytes(prompt[:8], "little") < share * 2**64


def find(raw: dict[str, Any], dotted: str) -> Any:
    """The value under a dotted name; a key that itself holds the dots wins. Raises RowError."""
    if dotted in raw:
        return raw[dotted]
    value: Any = raw
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            raise RowError(f"no field {dotted!r}")
        value = value[part]
    return value


def media_column(raw: dict[str, Any], fields: Fields) -> str | None:
    """The first column of images, video or audio that holds something and is not itself read."""
    for name, value in raw.items():
        if name.lower() in MEDIA and name not in fields.columns and has_content(value):
            return name
    return None


def media_refusal(column: str) -> str:
    return (
        f"field {column!r} holds images, video or audio, which prompts of text do not show. Leave such rows out, or "
        "set ignore_media to true, for their text alone"
    )


def has_content(value: Any) -> bool:
    """Whether there is anything in a value of a column of media: an image without bytes and path is none."""
    if isinstance(value, dict | list):
        return any(map(has_content, value.values() if isinstance(value, dict) else value))
    return bool(value)


def read_prompt(raw: dict[str, Any], field: str) -> Any:
    """The prompt as the row holds it; JSON text of messages as the list that it is. Raises RowError."""
    value = decoded(find(raw, field))
    if isinstance(value, str) and _PYTHON_MESSAGES.match(value):
        raise RowError(
            f"field {field!r} is a list of messages as Python prints it, not as JSON. Write the list itself, or "
            "json.dumps of it"
        )
    return value


def decoded(value: Any) -> Any:
    """The messages, if `value` is JSON text of one or of a list of them, or a list of such texts; else `value`."""
    if isinstance(value, list):
        return [_decoded_text(item) if isinstance(item, str) else item for item in value]
    return _decoded_text(value) if isinstance(value, str) else value


def _decoded_text(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    items = found if isinstance(found, list) else [found]
    # ShareGPT's messages have `from`: they are refused as messages rather than read as text.
    is_chat = items and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in items)
    return found if is_chat else text


def _prompt(value: Any, field: str, spec: SourceSpec) -> pb.Prompt:
    if isinstance(value, str) and value.strip():
        text = encodable(spec.prompt_template.replace("{prompt}", value), field)
        if spec.chat:
            return _messages([pb.ChatMessage(role="user", content=text)], spec)
        if spec.system_prompt is not None:
            raise RowError(f"field {field!r} is a string, which has no place for system_prompt: set chat to true")
        if spec.chat_template_kwargs:
            raise RowError(
                f"field {field!r} is a string, which no chat template renders: set chat to true, or "
                "chat_template_kwargs to {}"
            )
        return pb.Prompt(text=text)
    if isinstance(value, list) and value:
        messages = [read_message(item, field) for item in value]
        asked = next((message for message in reversed(messages) if message.role != ASSISTANT), None)
        if asked is None:
            raise RowError(f"field {field!r} holds no message but the assistant's")
        asked.content = spec.prompt_template.replace("{prompt}", asked.content)
        return _messages(messages, spec)
    raise RowError(f"field {field!r} must be a string or a list of messages, not {kind(value)}")


def _messages(messages: list[pb.ChatMessage], spec: SourceSpec) -> pb.Prompt:
    if spec.system_prompt is not None and all(message.role != "system" for message in messages):
        messages = [pb.ChatMessage(role="system", content=spec.system_prompt), *messages]
    arguments = json.dumps(spec.chat_template_kwargs) if spec.chat_template_kwargs else ""
    return pb.Prompt(messages=messages, chat_template_kwargs=arguments)


def read_message(item: Any, field: str) -> pb.ChatMessage:
    """Raises RowError."""
    role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
    if isinstance(content, list):
        parts = {str(part.get("type")) if isinstance(part, dict) else kind(part) for part in content}
        raise RowError(
            f"field {field!r}: the content of a message is a list of parts ({', '.join(sorted(parts))}). Only text is "
            "read: write it as one string"
        )
    if not isinstance(role, str) or not isinstance(content, str):
        raise RowError(f"field {field!r}: each message must be {{role, content}} of strings")
    return pb.ChatMessage(role=encodable(role, field), content=encodable(content, field))


def _gold(value: Any, fields: Fields) -> str:
    if fields.schema == "verl" and isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | int):
        # Some of verl's conversion scripts wrap the answer in a list of one.
        value = value[0]
    text = gold_text(value, fields.gold)
    if fields.gold_after is not None:
        _, mark, text = text.rpartition(fields.gold_after)
        if not mark:
            raise RowError(f"field {fields.gold!r} holds no {fields.gold_after!r} (gold_after)")
        text = text.strip()
        if not text:
            raise RowError(f"field {fields.gold!r} is empty after {fields.gold_after!r} (gold_after)")
    return text


def gold_text(value: Any, field: str) -> str:
    """A gold answer as graders get it (`Row.gold`). Raises RowError for null, empty values and what is not JSON."""
    if value is None or value in ("", [], {}):
        raise RowError(f"field {field!r} must be a gold answer, not {kind(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(f"field {field!r} is {value}")
    text = encodable(value if isinstance(value, str) else _json_text(value, field), field)
    if not text.strip():
        raise RowError(f"field {field!r} is empty")
    return text


def _json_text(value: Any, field: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(
            f"field {field!r} is no JSON value: {error}. Write the gold answer as text, or as numbers, lists and "
            "objects of them"
        ) from error


def _grader(raw: dict[str, Any], field: str | None) -> str | None:
    if field is None:
        return None
    try:
        value = find(raw, field)
    except RowError:
        return None
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RowError(f"field {field!r} must be the name of a grader, not {kind(value)}")
    return encodable(value, field)


def encodable(text: str, field: str) -> str:
    """The text itself. Raises RowError where UTF-8 cannot encode it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"field {field!r} holds a lone surrogate at character {error.start}") from error
    return text


def kind(value: Any) -> str:
    """What a value is, in words for a message: null, empty, or its type."""
    if value is None:
        return "null"
    if value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
        return "empty"
    return type(value).__name__
