"""Rows of jsonl and parquet files, good and bad."""

import hashlib
import json
from pathlib import Path

import pytest

from dapo.spec.data import DataSpec
from services.orchestrator.dataset import Dataset, DatasetError, file_sha256


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_strings_go_through_the_template(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"q": "1+1", "a": 2}, {"q": "2+{x}", "a": "four"}])
    data = Dataset(DataSpec(path=str(path), prompt_field="q", gold_field="a", prompt_template="Sum {prompt} ="))
    assert len(data) == 2
    assert (data[0].prompt.text, data[0].gold, data[0].row_id) == ("Sum 1+1 =", "2", "d.jsonl:1")
    assert data[1].prompt.text == "Sum 2+{x} ="


def test_a_chat_prompt_is_the_users_message(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "hi", "answer": "x"}])
    prompt = Dataset(DataSpec(path=str(path), chat=True))[0].prompt
    assert [(m.role, m.content) for m in prompt.messages] == [("user", "hi")]
    assert not prompt.text


def test_dotted_fields_and_messages_of_a_parquet_file(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "reward_model": {"ground_truth": str(i)}, "other": i}
        for i in range(5)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    spec = DataSpec(path=str(tmp_path / "d.parquet"), gold_field="reward_model.ground_truth", limit_rows=4)
    data = Dataset(spec)
    assert len(data) == 4
    assert (data[3].prompt.messages[0].content, data[3].gold, data[3].row_id) == ("q3", "3", "d.parquet:4")


def test_the_template_wraps_the_last_message(tmp_path):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1"}]
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": messages, "answer": 2}])
    prompt = Dataset(DataSpec(path=str(path), prompt_template="{prompt}. End with Answer:"))[0].prompt
    assert [m.content for m in prompt.messages] == ["be brief", "1+1. End with Answer:"]


def test_malformed_rows_are_set_aside_with_line_and_reason(tmp_path):
    rows = [
        {"prompt": "a", "answer": "1"},
        "{not json",
        {"prompt": "b"},
        "",
        {"prompt": 7, "answer": "1"},
        {"prompt": [{"role": "user"}], "answer": "1"},
        {"prompt": "c", "answer": None},
        {"prompt": "c", "answer": " "},
        {"prompt": "c", "answer": True},
        "[1]",
        {"prompt": "", "answer": "1"},
        {"prompt": "z", "answer": -3},
    ]
    data = Dataset(DataSpec(path=str(write_lines(tmp_path / "d.jsonl", rows))))
    assert [data[i].prompt.text for i in range(len(data))] == ["a", "z"]
    assert [bad.line for bad in data.malformed] == [2, 3, 5, 6, 7, 8, 9, 10, 11]
    reasons = [bad.reason for bad in data.malformed]
    assert "not a JSON object" in reasons[0]
    assert reasons[1] == "no field 'answer'"
    assert "'prompt' must be a string or a list of messages, not int" in reasons[2]
    assert "{role, content}" in reasons[3]
    assert "'answer' must be a string or a number, not null" in reasons[4]
    assert data[1].row_id == "d.jsonl:12"


def test_too_many_malformed_rows_refuse_the_file(tmp_path):
    rows = [{"prompt": "a", "answer": "1"}] * 500 + [{"prompt": "b"}] * 101
    path = write_lines(tmp_path / "d.jsonl", rows)
    with pytest.raises(DatasetError, match=r"101 of 601 rows are malformed.*d\.jsonl:501: no field 'answer'"):
        Dataset(DataSpec(path=str(path)))
    assert len(Dataset(DataSpec(path=str(write_lines(path, rows[:-1]))))) == 500


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none.jsonl", None, "is not a file"),
        ("d.csv", "a,b\n", r"'\.csv': only \.jsonl and \.parquet"),
        ("d.jsonl", "", "no usable row: the file is empty"),
        ("d.jsonl", "{}\n", "no usable row; the first malformed one"),
        ("d.parquet", "junk", "not a readable Parquet file"),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, text, expected):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=expected):
        Dataset(DataSpec(path=str(tmp_path / name)))


def test_a_missing_parquet_column_is_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "d.parquet")
    with pytest.raises(DatasetError, match="no column 'answer' \\(it has prompt\\)"):
        Dataset(DataSpec(path=str(tmp_path / "d.parquet")))


def test_file_sha256_of_all_and_of_a_prefix(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abcdef" * 1000)
    assert file_sha256(path) == hashlib.sha256(b"abcdef" * 1000).hexdigest()
    assert file_sha256(path, 3) == hashlib.sha256(b"abc").hexdigest()
