"""From prompts to token ids: the first token, started turns, arguments of the chat template."""

import json

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.data.tokens import PromptEncoder, PromptRefused, PromptTokens
from dapo.v1 import messages_pb2 as pb
from services.generator.tokens import PromptCodec, PromptError
from tests.support.data import write_lines

ALPHABET = "abcdefghijklmnopqrstuvwxyz<|>:/_ \n"
BOS = "<bos>"
CHATML = (
    "{% for m in messages %}<|{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant>{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
TRIMMING = CHATML.replace("m.content", "m.content | trim")
STRIPPED = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
"""Leaves out what the assistant said."""


def tokenizer(*, begins: bool, template: str | None = None):
    """One token a character; `begins`: it adds a first token of its own, as Llama's and Gemma's do."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    symbols = {symbol: index for index, symbol in enumerate([*ALPHABET, BOS, "<eos>", "<unk>"])}
    core = Tokenizer(models.WordLevel(symbols, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    if begins:
        core.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, symbols[BOS])]
        )  # fmt: skip
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token="<eos>", unk_token="<unk>"
    )
    made.chat_template = template
    return made


def encoded(prompt: pb.Prompt, *, begins: bool = False, template: str | None = None) -> str:
    """The token ids as text, special tokens shown."""
    made = tokenizer(begins=begins, template=template)
    [ids] = PromptEncoder(made, "model").encode([prompt])
    if isinstance(ids, PromptRefused):
        raise ids
    assert made.unk_token_id not in ids
    return "".join(made.convert_ids_to_tokens(ids))


def chat(*turns: str, **arguments: object) -> pb.Prompt:
    """Turns such as `user: hi`."""
    messages = [pb.ChatMessage(role=turn.partition(": ")[0], content=turn.partition(": ")[2]) for turn in turns]
    return pb.Prompt(messages=messages, chat_template_kwargs=json.dumps(arguments) if arguments else "")


# -- the first token


@pytest.mark.parametrize("text", ["abc", f"{BOS}abc"])
def test_text_begins_with_the_first_token_once_where_the_tokenizer_adds_one(text):
    assert encoded(pb.Prompt(text=text), begins=True) == f"{BOS}abc"


def test_text_has_no_first_token_where_the_tokenizer_adds_none():
    assert encoded(pb.Prompt(text="abc")) == "abc"
    assert encoded(pb.Prompt(text=f"{BOS}abc")) == f"{BOS}abc"


@pytest.mark.parametrize("begins", [True, False])
def test_messages_have_the_first_token_that_their_template_writes(begins):
    template = "{{ bos_token }}" + CHATML
    assert encoded(chat("user: hi"), begins=begins, template=template) == f"{BOS}<|user>hi<eos><|assistant>"
    assert encoded(chat("user: hi"), begins=begins, template=CHATML) == "<|user>hi<eos><|assistant>"


def test_prompts_of_both_kinds_keep_their_order():
    prompts = [pb.Prompt(text="a"), chat("user: b"), pb.Prompt(text="c"), chat("assistant: d", "user: e")]
    made = tokenizer(begins=True, template=STRIPPED)
    found = ["".join(made.convert_ids_to_tokens(ids)) for ids in PromptEncoder(made, "model").encode(prompts)]
    assert found == [f"{BOS}{letter}" for letter in "abce"]


# -- started turns


def test_a_started_turn_is_left_open():
    prompt = chat("user: hi", "assistant: <think>so")
    assert encoded(prompt, template=CHATML) == "<|user>hi<eos><|assistant><think>so"
    assert encoded(chat("user: hi", "assistant: "), template=CHATML) == "<|user>hi<eos><|assistant>"


def test_a_turn_of_the_assistants_in_between_is_closed():
    prompt = chat("user: a", "assistant: b", "user: c")
    assert encoded(prompt, template=CHATML) == "<|user>a<eos><|assistant>b<eos><|user>c<eos><|assistant>"


def test_a_started_turn_ends_as_the_template_leaves_it():
    prompt = chat("user: hi", "assistant: so\n")
    assert encoded(prompt, template=CHATML).endswith("<|assistant>so\n")
    assert encoded(prompt, template=TRIMMING).endswith("<|assistant>so")


def test_a_template_that_drops_the_started_turn_refuses_the_prompt():
    with pytest.raises(PromptRefused, match="does not appear in the chat") as refusal:
        encoded(chat("user: hi", "assistant: so"), template=STRIPPED)
    assert "Rendered chat" not in str(refusal.value)


# -- arguments of the template


def test_arguments_reach_the_template():
    assert encoded(chat("user: hi"), template=CHATML).endswith("<|assistant>")
    assert encoded(chat("user: hi", enable_thinking=True), template=CHATML).endswith("<|assistant>")
    assert encoded(chat("user: hi", enable_thinking=False), template=CHATML).endswith("<|assistant><think></think>")


def test_an_argument_that_the_template_cannot_use_refuses_the_prompt():
    with pytest.raises(PromptRefused, match="template refuses the messages: "):
        encoded(chat("user: hi", date=3), template="{{ 'on ' + date }}")


def test_inspect_and_prepare_render_as_the_generators_do(tmp_path):
    tokenizer(begins=False, template=CHATML).save_pretrained(tmp_path / "model")
    data = write_lines(tmp_path / "d.jsonl", [{"prompt": "hi", "answer": 1}])
    common = ["--model", str(tmp_path / "model"), "--set", "chat=true"]
    thinking = ["--set", "chat_template_kwargs.enable_thinking=false"]

    def dapo(*arguments: object):
        return CliRunner().invoke(app, ["data", *map(str, arguments), *common])

    assert json.loads(dapo("inspect", data, "--json").stdout)["tokens"]["maximum"] == 22
    found = dapo("inspect", data, "--json", *thinking)
    assert json.loads(found.stdout)["rendered"] == ["<|user>hi<eos><|assistant><think></think>"]
    assert "the model reads: <|user>hi<eos><|assistant><think></think>" in dapo("inspect", data, *thinking).stdout
    assert dapo("prepare", data, tmp_path / "a.jsonl", "--max-prompt-tokens", 22).exit_code == 0
    short = dapo("prepare", data, tmp_path / "b.jsonl", "--max-prompt-tokens", 22, *thinking)
    assert "nothing was written: of 1 rows 0 are left" in short.stderr
    unused = dapo("inspect", data, "--set", "chat_template_kwargs.other=1")
    assert "warning: data.chat_template_kwargs.other = 1: is nothing that the chat template of" in unused.stderr


def test_generators_and_counts_have_the_same_tokens(tmp_path):
    from tests.support.models import tiny_qwen2

    made = tokenizer(begins=True, template=CHATML)
    made.save_pretrained(tmp_path)
    tiny_qwen2(0).config.save_pretrained(tmp_path)
    prompts = [pb.Prompt(text="abc"), chat("user: hi", enable_thinking=False), chat("user: hi", "assistant: so")]
    codec = PromptCodec(str(tmp_path))
    ids = [codec.encode(prompt) for prompt in prompts]
    assert list(map(len, ids)) == PromptTokens(str(tmp_path)).count(prompts)
    assert ids[0][0] == made.bos_token_id
    tokenizer(begins=False, template="{{ raise_exception('no') }}").save_pretrained(tmp_path)
    with pytest.raises(PromptError, match="refuses the messages: no") as refusal:
        PromptCodec(str(tmp_path)).encode(prompts[1])
    assert refusal.value.reason == "prompt_refused"
