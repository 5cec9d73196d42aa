"""From raw rows to prompts and gold answers, good and bad."""

import datetime
import hashlib
import json
from pathlib import Path

import pytest

from dapo.data import Dataset, DatasetError, open_dataset
from dapo.host.files import file_sha256
from dapo.spec.tree.data import DataSpec
from tests.support.data import write_lines, write_parquet


def open_rows(path: Path, **fields) -> Dataset:
    return open_dataset(DataSpec(path=str(path), **fields))


def messages(dataset: Dataset, row: int = 0) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in dataset[row].prompt.messages]


def test_strings_go_through_the_template(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"q": "1+1", "a": 2}, {"q": "2+{x}", "a": "four"}])
    data = open_rows(path, prompt_field="q", gold_field="a", prompt_template="Sum {prompt} =")
    assert len(data) == 2
    assert (data[0].prompt.text, data[0].gold, data[0].row_id) == ("Sum 1+1 =", "2", "d.jsonl:1")
    assert data[1].prompt.text == "Sum 2+{x} ="
    assert (data[0].grader, data[0].source) == (None, "data")


def test_rows_beyond_the_end_are_index_errors(tmp_path):
    data = open_rows(write_lines(tmp_path / "d.jsonl", [{"prompt": "a", "answer": 1}]))
    for row in (1, -1):
        with pytest.raises(IndexError):
            data[row]
    assert [row.gold for row in data] == ["1"]


def test_a_chat_prompt_is_the_users_message(tmp_path):
    data = open_rows(write_lines(tmp_path / "d.jsonl", [{"prompt": "hi", "answer": "x"}]), chat=True)
    assert messages(data) == [("user", "hi")]
    assert not data[0].prompt.text


def test_a_system_prompt_goes_before_messages_that_bring_none(tmp_path):
    rows = [
        {"prompt": "hi", "answer": 1},
        {"prompt": [{"role": "user", "content": "hi"}], "answer": 1},
        {"prompt": [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}], "answer": 1},
    ]
    data = open_rows(write_lines(tmp_path / "d.jsonl", rows), chat=True, system_prompt="Be brief.")
    assert messages(data, 0) == messages(data, 1) == [("system", "Be brief."), ("user", "hi")]
    assert messages(data, 2) == [("system", "own"), ("user", "hi")]


def test_a_system_prompt_has_no_place_in_a_plain_string(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "hi", "answer": "x"}])
    with pytest.raises(DatasetError, match="no place for system_prompt: set chat to true"):
        open_rows(path, system_prompt="Be brief.")


def test_dotted_fields_and_messages_of_a_parquet_file(tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "reward_model": {"ground_truth": str(i)}, "other": i}
        for i in range(5)
    ]
    path = write_parquet(tmp_path / "d.parquet", rows)
    data = open_rows(path, gold_field="reward_model.ground_truth", limit_rows=4)
    assert len(data) == 4
    assert (messages(data, 3), data[3].gold, data[3].row_id) == ([("user", "q3")], "3", "d.parquet:4")


def test_a_key_that_holds_the_dots_itself_is_found(tmp_path):
    rows = [{"prompt": "a", "meta.gold": "1"}]
    for path in (write_lines(tmp_path / "d.jsonl", rows), write_parquet(tmp_path / "d.parquet", rows)):
        assert open_rows(path, gold_field="meta.gold")[0].gold == "1"


def test_the_template_wraps_the_last_message(tmp_path):
    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1"}]
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": prompt, "answer": 2}])
    data = open_rows(path, prompt_template="{prompt}. End with Answer:")
    assert messages(data) == [("system", "be brief"), ("user", "1+1. End with Answer:")]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("gold", "text"),
    [
        (18, "18"),
        (-0.5, "-0.5"),
        (1e-7, "1e-07"),
        (True, "true"),
        (" 18 ", " 18 "),
        ("[1, 2]", "[1, 2]"),
        (["a", "é"], '["a","é"]'),
        ({"numbers": [1, 2], "target": 3}, '{"numbers":[1,2],"target":3}'),
    ],
)
def test_golds_are_any_json_value(tmp_path, suffix, gold, text):
    write = write_lines if suffix == "jsonl" else write_parquet
    data = open_rows(write(tmp_path / f"d.{suffix}", [{"prompt": "a", "answer": gold}]))
    assert data[0].gold == text


@pytest.mark.parametrize(
    ("truth", "text"), [(["12"], "12"), (["1", "2"], '["1","2"]'), ({"target": ["x"]}, '{"target":["x"]}'), ("7", "7")]
)
def test_verls_list_of_one_is_its_element(tmp_path, truth, text):
    path = write_parquet(tmp_path / "d.parquet", [{"prompt": "a", "reward_model": {"ground_truth": truth}}])
    assert open_rows(path)[0].gold == text


def test_gold_after_a_mark(tmp_path):
    rows = [{"prompt": "a", "answer": "2 #### 3\n#### 1,000 "}, {"prompt": "b", "answer": "4"}]
    data = open_rows(write_lines(tmp_path / "d.jsonl", rows), gold_after="####")
    assert [row.gold for row in data] == ["1,000"]
    assert data.malformed[0].reason == "field 'answer' holds no '####' (gold_after)"


def test_a_row_names_its_grader(tmp_path):
    rows = [{"prompt": p, "answer": 1, "how": g} for p, g in (("a", "exact"), ("b", None), ("c", ""), ("d", 3))]
    data = open_rows(write_lines(tmp_path / "d.jsonl", [*rows, {"prompt": "e", "answer": 1}]), grader_field="how")
    assert [row.grader for row in data] == ["exact", None, None, None]
    assert str(data.malformed[0]) == "d.jsonl:4: field 'how' must be the name of a grader, not int"


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
        {"prompt": "c", "answer": []},
        "[1]",
        {"prompt": "", "answer": "1"},
        {"prompt": "z", "answer": -3},
    ]
    data = open_rows(write_lines(tmp_path / "d.jsonl", rows))
    assert [row.prompt.text for row in data] == ["a", "z"]
    assert [bad.line for bad in data.malformed] == [2, 3, 5, 6, 7, 8, 9, 10, 11]
    reasons = [bad.reason for bad in data.malformed]
    assert "not a JSON object" in reasons[0]
    assert reasons[1] == "no field 'answer'"
    assert "'prompt' must be a string or a list of messages, not int" in reasons[2]
    assert "{role, content}" in reasons[3]
    assert "'answer' must be a gold answer, not null" in reasons[4]
    assert data[1].row_id == "d.jsonl:12"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a", "answer": NaN}', "field 'answer' is nan"),
        (b'{"prompt": "a", "answer": -Infinity}', "field 'answer' is -inf"),
        (b'{"prompt": "a", "answer": [1, NaN]}', "field 'answer' is no JSON value"),
        (b'{"prompt": "a", "answer": 1}\r{"prompt": "b", "answer": 2}', "not a JSON object"),
        (b'{"prompt": "a", "prompt": "b", "answer": 1}', "the key 'prompt' is written twice"),
        (b'{"prompt": "a", "answer": {"x": 1, "x": 2}}', "the key 'x' is written twice"),
        (b'{"prompt": "\xff\xfe", "answer": 1}', "not UTF-8 text (byte 12 of the line is 0xff)"),
        (b'{"prompt": "a\x00b", "answer": 1}', "not a JSON object"),
        (b"\x00\x00\x00\x00", "not a JSON object"),
        (b'{"prompt": "\\ud800", "answer": 1}', "field 'prompt' holds a lone surrogate at character 0"),
        (b'{"prompt": "a", "answer": "\\ud800"}', "field 'answer' holds a lone surrogate"),
        (b'{"prompt": "a", "answer": ' + b"9" * 5000 + b"}", "not a JSON object"),
        (b'{"prompt": "a", "answer": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"prompt": "' + b"x" * (9 << 20) + b'", "answer": 1}', "a line of 9.0 MiB, more than 8"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_hostile_line_costs_itself_only(tmp_path, line, reason):
    good = b'{"prompt": "good", "answer": 1}'
    (tmp_path / "d.jsonl").write_bytes(b"\n".join([good, line, good]) + b"\n")
    data = open_rows(tmp_path / "d.jsonl")
    assert [row.prompt.text for row in data] == ["good", "good"]
    [bad] = data.malformed
    assert (bad.file, bad.line) == ("d.jsonl", 2)
    assert reason in bad.reason


@pytest.mark.parametrize("gold", [b"12", datetime.datetime(2026, 1, 2), [datetime.date(2026, 1, 2)]])
def test_a_gold_answer_that_is_no_json_says_how_to_mend_it(tmp_path, gold):
    path = write_parquet(tmp_path / "d.parquet", [{"prompt": "a", "answer": gold}])
    with pytest.raises(DatasetError, match=r"'answer' is no JSON value: .* Write the gold answer as text, or as num"):
        open_rows(path)


def test_a_line_of_50_mb_is_not_held_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "d.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "a", "answer": 1}\n')
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b'\n{"prompt": "b", "answer": 1}')
    tracemalloc.start()
    data = open_rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.row_id for row in data] == ["d.jsonl:1", "d.jsonl:3"]
    assert peak < 40_000_000


@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf{"prompt": "a", "answer": 1}\n{"prompt": "b", "answer": 2}\n',
        b'{"prompt": "a", "answer": 1}\r\n\r\n{"prompt": "b", "answer": 2}\r\n',
        b'{"prompt": "a", "answer": 1}\n{"prompt": "b", "answer": 2}',
        b'{"prompt": "a", "answer": 1}\n\xef\xbb\xbf{"prompt": "b", "answer": 2}\n \t\n',
    ],
    ids=["mark", "crlf", "no last line end", "marks of files that were joined"],
)
def test_byte_order_marks_and_line_ends(tmp_path, text):
    (tmp_path / "d.jsonl").write_bytes(text)
    data = open_rows(tmp_path / "d.jsonl")
    assert [(row.prompt.text, row.gold) for row in data] == [("a", "1"), ("b", "2")]
    assert not data.malformed


def test_a_parquet_value_that_is_no_text_costs_its_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    bad = pa.array([b"a", b"\xff", b"c"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"prompt": bad, "answer": ["1", "2", "3"]}), tmp_path / "d.parquet")
    data = open_rows(tmp_path / "d.parquet")
    assert [row.prompt.text for row in data] == ["a", "c"]
    assert str(data.malformed[0]).startswith("d.parquet:2: cannot be read: ")


def test_too_many_malformed_rows_refuse_the_file(tmp_path):
    rows = [{"prompt": "a", "answer": "1"}] * 500 + [{"prompt": "b"}] * 101
    path = write_lines(tmp_path / "d.jsonl", rows)
    with pytest.raises(DatasetError, match=r"101 of 601 rows are malformed.*d\.jsonl:501: no field 'answer'"):
        open_rows(path)
    assert len(open_rows(path, malformed_limit=101)) == 500
    assert len(open_rows(write_lines(path, rows[:-1]))) == 500
    with pytest.raises(DatasetError, match="more than malformed_limit = 0"):
        open_rows(path, malformed_limit=0)


def test_a_file_that_changes_under_the_run_is_named(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "a", "answer": 1}] * 3)
    data = open_rows(path)
    path.write_text("x" * 100)
    with pytest.raises(DatasetError, match=r"d\.jsonl:2: .*Was the file changed"):
        data[1]


def test_file_sha256_of_all_and_of_a_prefix(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abcdef" * 1000)
    assert file_sha256(path) == hashlib.sha256(b"abcdef" * 1000).hexdigest()
    assert file_sha256(path, 3) == hashlib.sha256(b"abc").hexdigest()


def test_reading_data_needs_no_torch(tmp_path):
    import subprocess
    import sys

    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "a", "answer": 1}])
    program = (
        "import sys; from dapo.data import open_dataset; from dapo.spec.tree.data import DataSpec; "
        f"open_dataset(DataSpec(path={str(path)!r})); print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", "import json;" + program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "pyarrow", "numpy"} & set(json.loads(done.stdout))
