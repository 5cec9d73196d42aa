"""data.chat_template_kwargs: what is refused, what is warned of, and where it holds."""

import inspect
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from dapo.spec import SpecError
from dapo.spec.checks.all import find_warnings
from dapo.spec.checks.data import _TAKEN_ARGUMENTS
from dapo.spec.load import build_spec
from tests.support.spec import spec, tree

THINKING = {"enable_thinking": False}
TEMPLATE = "{% if enable_thinking is false %}<think></think>{% endif %}"


def refused(value: Any) -> str:
    with pytest.raises(SpecError) as error:
        build_spec(tree(data__chat_template_kwargs=value))
    return str(error.value)


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "continue_final_message", "messages"])
def test_an_argument_that_dapo_sets_is_refused_by_field(name: str) -> None:
    assert refused({name: True}).startswith(f"data.chat_template_kwargs.{name} = true: is set by dapo itself")


def test_every_argument_of_transformers_own_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    method = transformers.PreTrainedTokenizerBase.apply_chat_template
    own = {name for name, one in inspect.signature(method).parameters.items() if one.kind is not one.VAR_KEYWORD}
    # Tools and documents are handed to the template, which has them in its text.
    assert own - {"self", "tools", "documents"} == _TAKEN_ARGUMENTS - {"messages"}


def test_what_sources_and_sets_inherit_is_refused_once() -> None:
    one = {"path": "d.jsonl"}
    written = tree(data={"sources": {"a": one, "b": one}, "chat_template_kwargs": {"tokenize": True}})
    written["evaluation"] = {"sets": {"c": {**one, "chat_template_kwargs": {"padding": True}}, "d": one}}
    with pytest.raises(SpecError) as error:
        build_spec(written)
    assert [problem.field for problem in error.value.problems] == [
        "data.chat_template_kwargs.tokenize",
        "evaluation.sets.c.chat_template_kwargs.padding",
    ]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"today": date(2026, 1, 2)}, ".today = 2026-01-02: is no JSON value; quote it if it looks like a date"),
        ({"a": {1: 2}}, ".a = 1: must be text"),
        ({"a": [float("nan")]}, ".a = nan: must be a finite number"),
        (3, " = 3: must be a mapping. Set {text: any value}; the default is {}"),
    ],
)
def test_arguments_are_json(value: Any, says: str) -> None:
    assert refused(value).startswith(f"data.chat_template_kwargs{says}")


def test_evaluation_sets_and_sources_take_those_of_data() -> None:
    one = {"path": "d.jsonl"}
    own = {**one, "chat_template_kwargs": {"enable_thinking": True}}
    written = tree(data={"sources": {"a": one, "b": own}, "chat_template_kwargs": THINKING})
    written["evaluation"] = {"sets": {"c": one, "d": own}}
    loaded = build_spec(written)
    found = [rows.chat_template_kwargs["enable_thinking"] for rows in loaded.data.sources.values()]
    assert found == [rows.chat_template_kwargs["enable_thinking"] for rows in loaded.evaluation.sets.values()]
    assert found == [False, True]


def test_an_argument_is_set_from_the_command_line() -> None:
    loaded = build_spec(tree(), ["data.chat_template_kwargs.enable_thinking=false"])
    assert loaded.data.chat_template_kwargs == THINKING


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", TEMPLATE),
        ("tokenizer_config.json", json.dumps({"chat_template": TEMPLATE})),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": TEMPLATE}]})),
        ("chat_template.json", json.dumps({"chat_template": TEMPLATE})),
    ],
)
def test_an_argument_that_the_template_does_not_name_is_warned_of(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    arguments = {**THINKING, "thinking": True}
    [warning] = find_warnings(spec(model__path=str(tmp_path), data__chat_template_kwargs=arguments))
    assert str(warning).startswith("data.chat_template_kwargs.thinking = true: is nothing that the chat template of ")


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff", b'{"chat_template": null}'])
def test_a_model_without_a_readable_template_names_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_bytes(content)
    fields = {"model__path": str(tmp_path), "data__chat_template_kwargs": THINKING}
    assert [one.field for one in find_warnings(spec(**fields))] == ["data.chat_template_kwargs.enable_thinking"]


def test_of_a_model_on_a_hub_nothing_is_known() -> None:
    assert find_warnings(spec(model__path="Qwen/Qwen3-0.6B", data__chat_template_kwargs=THINKING)) == []
