"""Prompts as published datasets write them: messages as text, started turns, columns of media."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dapo.contracts.prompts import is_started
from dapo.data import Dataset, DatasetError, open_dataset
from dapo.data.inspection import inspect
from dapo.data.source import Source
from dapo.spec.tree.data import DataSpec, SourceSpec
from dapo.v1 import messages_pb2 as pb
from tests.support.data import write_lines, write_parquet

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}
STARTED = {"role": "assistant", "content": "<think>\n"}
PNG = b"\x89PNG" + b"\xff" * 100


def open_rows(path: Path, **fields) -> Dataset:
    return open_dataset(DataSpec(path=str(path), **fields))


def turns(prompt: pb.Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages]


# -- messages as JSON text


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_json_text_of_messages_is_read_as_messages(tmp_path, suffix):
    rows = [{"prompt": json.dumps([SYSTEM, USER]), "answer": 2}, {"prompt": f" {json.dumps([USER])}\n", "answer": 2}]
    write = write_lines if suffix == "jsonl" else write_parquet
    in_parts = [{"prompt": [json.dumps(SYSTEM), json.dumps(USER)], "answer": 2}]
    assert turns(open_rows(write(tmp_path / f"parts.{suffix}", in_parts))[0].prompt) == [
        ("system", "Be brief."), ("user", "1+1")
    ]  # fmt: skip
    data = open_rows(write(tmp_path / f"d.{suffix}", rows))
    assert turns(data[0].prompt) == [("system", "Be brief."), ("user", "1+1")]
    assert turns(data[1].prompt) == [("user", "1+1")]
    assert data.sources[0].fields.schema == "TRL"
    assert data.duplicates().rows == 1


def test_messages_as_text_have_the_hash_of_the_messages(tmp_path):
    rows = [{"prompt": prompt, "answer": 2} for prompt in ([SYSTEM, USER], json.dumps([USER]), "1+1")]
    assert open_rows(write_lines(tmp_path / "d.jsonl", rows)).duplicates().rows == 2


@pytest.mark.parametrize(
    "text", ["[1, 2] sorted?", "[1, 2]", "[]", "{}", '{"a": 1}', '[{"a": 1}]', '[{"role": "user"', "[" * 200_000]
)
def test_other_text_in_brackets_is_text(tmp_path, text):
    assert open_rows(write_lines(tmp_path / "d.jsonl", [{"prompt": text, "answer": 2}]))[0].prompt.text == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (str([USER]), "a list of messages as Python prints it, not as JSON"),
        (json.dumps(USER), "must be a string or a list of messages, not dict"),
        (json.dumps([{"role": "user"}]), "each message must be {role, content} of strings"),
        (json.dumps([{"from": "human", "value": "1+1"}]), "each message must be {role, content} of strings"),
        (json.dumps([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "1+1"}]}]),
         "a list of parts (image, text). Only text is read"),
    ],
)  # fmt: skip
def test_messages_as_text_that_are_none_are_malformed(tmp_path, text, says):
    with pytest.raises(DatasetError) as error:
        open_rows(write_lines(tmp_path / "d.jsonl", [{"prompt": text, "answer": 2}]))
    assert says in str(error.value)


# -- a turn that is started


def test_a_prompt_may_end_in_a_started_turn(tmp_path):
    path = write_lines(
        tmp_path / "d.jsonl", [{"prompt": [USER, STARTED], "answer": 2}, {"prompt": [USER], "answer": 2}]
    )
    data = open_rows(path, prompt_template="{prompt} = ?")
    assert turns(data[0].prompt) == [("user", "1+1 = ?"), ("assistant", "<think>\n")]
    assert [is_started(row.prompt) for row in data] == [True, False]
    source = Source(SourceSpec(path=str(path)), "data")
    assert inspect(source, source.scan()).prompts == {"messages with a started answer": 1, "messages": 1}


def test_a_prompt_of_the_assistants_words_alone_is_malformed(tmp_path):
    with pytest.raises(DatasetError, match="'prompt' holds no message but the assistant's"):
        open_rows(write_lines(tmp_path / "d.jsonl", [{"prompt": [STARTED], "answer": 2}]))


# -- arguments of the chat template


def test_a_prompt_carries_the_arguments_of_its_chat_template(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": [USER], "answer": 2}])
    data = open_rows(path, chat_template_kwargs={"enable_thinking": False})
    assert json.loads(data[0].prompt.chat_template_kwargs) == {"enable_thinking": False}
    assert not open_rows(path)[0].prompt.chat_template_kwargs


def test_text_has_no_use_for_arguments_of_a_chat_template(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "1+1", "answer": 2}])
    arguments = {"enable_thinking": False}
    assert open_rows(path, chat=True, chat_template_kwargs=arguments)[0].prompt.chat_template_kwargs
    with pytest.raises(DatasetError, match="a string, which no chat template renders: set chat to true, or"):
        open_rows(path, chat_template_kwargs=arguments)


# -- images, video, audio


def with_media(column: str, *values: object) -> list[dict[str, object]]:
    return [{"prompt": f"<image>{i}", "answer": i, column: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("images", [{"bytes": PNG, "path": None}]),
        ("image", {"bytes": None, "path": "a.png"}),
        ("Image", PNG),
        ("videos", ["a.mp4"]),
        ("audio", {"array": [0.5], "sampling_rate": 16_000}),
        ("image_urls", ["https://example.org/a.png"]),
    ],
)
def test_rows_with_media_are_refused_by_the_columns_name(tmp_path, column, value):
    path = write_parquet(tmp_path / "d.parquet", with_media(column, value, value))
    with pytest.raises(DatasetError, match=f"no usable row: field '{column}' holds images, video or audio"):
        open_rows(path)
    data = open_rows(path, ignore_media=True)
    assert [row.prompt.text for row in data] == ["<image>0", "<image>1"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "datasets"])
def test_rows_with_media_among_others_are_malformed(tmp_path, suffix):
    images = [["a.png"] if i in (3, 150) else [] for i in range(300)]
    if suffix == "datasets":
        path = tmp_path / "saved"
        pytest.importorskip("datasets").Dataset.from_list(with_media("images", *images)).save_to_disk(path)
    else:
        path = tmp_path / f"d.{suffix}"
        (write_lines if suffix == "jsonl" else write_parquet)(path, with_media("images", *images))
    data = open_rows(path)
    assert (len(data), [bad.line for bad in data.malformed]) == (298, [4, 151])
    assert "'images' holds" in data.malformed[1].reason
    assert len(open_rows(path, ignore_media=True)) == 300


@pytest.mark.parametrize("value", [None, "", [], False, 0, {"bytes": None, "path": None}, [None]])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_empty_column_of_media_is_no_fault(tmp_path, suffix, value):
    write = write_lines if suffix == "jsonl" else write_parquet
    assert len(open_rows(write(tmp_path / f"d.{suffix}", with_media("image", value, value)))) == 2


def test_a_column_that_is_read_is_no_media(tmp_path):
    rows = [{"audio": {"transcript": "1+1"}, "video": "2"}]
    data = open_rows(write_lines(tmp_path / "d.jsonl", rows), prompt_field="audio.transcript", gold_field="video")
    assert (data[0].prompt.text, data[0].gold) == ("1+1", "2")


def test_a_path_of_media_that_is_no_text_costs_its_own_row_only(tmp_path):
    paths = pa.Array.from_buffers(pa.string(), 2, pa.array([b"", b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"prompt": ["a", "b"], "answer": ["1", "2"], "image": paths}), tmp_path / "d.parquet")
    data = open_rows(tmp_path / "d.parquet")
    assert ([row.gold for row in data], [bad.line for bad in data.malformed]) == (["1"], [2])
