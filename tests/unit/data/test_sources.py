"""Where rows are read from, which fields are taken, and what is refused."""

import os
import sys
from pathlib import Path

import pytest

from dapo.data import DatasetError, open_dataset, open_source
from dapo.data.locations import split_files
from dapo.data.source import Source
from dapo.spec.tree.data import DataSpec, SourceSpec
from tests.support.data import shared, write_lines, write_parquet

ROWS = [{"prompt": f"p{i}", "answer": i} for i in range(6)]


def source(path: Path | str, **fields) -> Source:
    return Source(SourceSpec(path=str(path), **fields), "data")


def golds(path: Path | str, **fields) -> list[str]:
    return [row.gold for row in open_dataset(DataSpec(path=str(path), **fields))]


# -- detection


@pytest.mark.parametrize(
    ("row", "schema", "prompt", "gold"),
    [
        ({"prompt": "a", "answer": 1}, "prompt/answer", "prompt", "answer"),
        (
            {"data_source": "x", "prompt": [{"role": "user", "content": "a"}], "reward_model": {"ground_truth": "1"}},
            "verl", "prompt", "reward_model.ground_truth",
        ),
        (
            {"prompt": "a", "question": "b", "answer": "c", "reward_model": {"ground_truth": "1"}},
            "verl", "prompt", "reward_model.ground_truth",
        ),
        ({"prompt": [{"role": "user", "content": "a"}], "solution": "1"}, "TRL", "prompt", "solution"),
        ({"prompt": "a", "ground_truth": "1"}, "TRL", "prompt", "ground_truth"),
        ({"question": "a", "answer": "1", "solution": "long"}, "GSM8K", "question", "answer"),
        ({"problem": "a", "solution": "1"}, "MATH", "problem", "solution"),
        ({"problem": "a", "answer": "1", "gold": "1"}, "MATH", "problem", "answer"),
        ({"query": "a", "prompt": None, "gold": [1]}, "query/gold", "query", "gold"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_detection(tmp_path, suffix, row, schema, prompt, gold):
    write = write_lines if suffix == "jsonl" else write_parquet
    fields = source(write(tmp_path / f"d.{suffix}", [row])).fields
    assert (fields.schema, fields.prompt, fields.gold, fields.gold_after) == (schema, prompt, gold, None)


def test_gsm8ks_own_answers_are_what_follows_the_mark(tmp_path):
    rows = [{"question": "a", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}, {"question": "b", "answer": "#### 1,000"}]
    path = write_lines(tmp_path / "d.jsonl", rows)
    assert source(path).fields.gold_after == "####"
    assert golds(path) == ["2", "1,000"]
    assert golds(path, gold_field="answer", prompt_field="question")[1] == "#### 1,000"


def test_one_answer_without_gsm8ks_mark_is_set_aside(tmp_path):
    rows = [{"question": "a", "answer": "so\n#### 2"}, {"question": "b", "answer": "#### 3"}]
    path = write_lines(tmp_path / "d.jsonl", [*rows, {"question": "c", "answer": "no mark"}])
    data = open_dataset(DataSpec(path=str(path)))
    assert [row.gold for row in data] == ["2", "3"]
    assert list(map(str, data.malformed)) == ["d.jsonl:3: field 'answer' holds no '####' (gold_after)"]
    few = write_lines(tmp_path / "few.jsonl", [rows[0], *({"question": f"{i}", "answer": f"{i}"} for i in range(9))])
    assert golds(few)[1] == "0"


@pytest.mark.parametrize(
    ("row", "fields", "says"),
    [
        ({"prompt": "a", "question": "b", "answer": 1}, {},
         "prompt and question could each be the prompt: set prompt_field to one of them (columns: prompt, question, "),
        ({"prompt": "a", "answer": 1, "gold": 2}, {}, "answer and gold could each be the gold answer: set gold_field"),
        ({"text": "a", "answer": 1}, {}, "no column looks like the prompt (columns: text, answer; looked for prompt, "),
        ({"prompt": "a"}, {}, "no column looks like the gold answer (columns: prompt; looked for reward_model.ground"),
        ({"prompt": "a", "answer": 1}, {"gold_field": "gold"}, "no column 'gold' (it has prompt, answer): mend gold_"),
        ({"prompt": "a", "answer": 1}, {"prompt_field": "x.y"}, "no column 'x.y' (it has prompt, answer): mend prompt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_cannot_be_told_is_asked(tmp_path, suffix, row, fields, says):
    path = (write_lines if suffix == "jsonl" else write_parquet)(tmp_path / f"d.{suffix}", [row])
    with pytest.raises(DatasetError) as error:
        source(path, **fields)
    assert str(error.value).startswith(str(path))
    assert says in str(error.value)


def test_a_set_field_ends_the_doubt(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "a", "question": "b", "answer": 1, "gold": 2}])
    fields = source(path, prompt_field="question", gold_field="gold").fields
    assert (fields.schema, fields.prompt, fields.gold) == ("as set", "question", "gold")


def test_a_grader_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no column 'how' \(it has prompt, answer\)"):
        source(write_parquet(tmp_path / "d.parquet", ROWS), grader_field="how")


@pytest.mark.parametrize(
    ("name", "schema", "rows"),
    [("dapo_math_17k.parquet", "verl", 17_917), ("gsm8k_test_300.jsonl", "GSM8K", 300), ("math500.jsonl", "MATH", 500)],
)
def test_real_data_loads_by_detection(name, schema, rows):
    data = open_source(SourceSpec(path=shared(name)), name)
    assert (len(data), data.malformed, data.sources[0].fields.schema) == (rows, [], schema)
    assert all(row.gold.strip() for row in data)
    if schema == "verl":
        assert data[0].gold == "34"
        assert data[0].prompt.messages[0].content.startswith("In triangle $ABC$")


# -- files, folders and names


@pytest.mark.parametrize("name", ["d.JSONL", "d.Jsonl", "d.PARQUET"])
def test_suffixes_in_capitals(tmp_path, name):
    write = write_parquet if name.endswith("PARQUET") else write_lines
    assert golds(write(tmp_path / name, ROWS)) == list("012345")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.jsonl", None, "is not a file: give the path"),
        ("d.csv", b"a,b\n", r"'\.csv': only \.jsonl and \.parquet"),
        ("d", b"a,b\n", "'nothing': only"),
        ("d.jsonl", b"", "no usable row: it is empty"),
        ("d.jsonl", b"\n \r\n\n", "no usable row: it is empty"),
        ("d.jsonl", b"\x00" * 100, r"no usable row; the first malformed one is d\.jsonl:1: not a JSON object"),
        ("d.jsonl", b"\xff\xfe{\x00}\x00\n\x00", r"no usable row; the first malformed one is d\.jsonl:1: not UTF-8"),
        ("d.jsonl", b"{}\n", "no column looks like the gold answer"),
        ("d.jsonl", b'[{"prompt": 1}]\n', r"no usable row; .*d\.jsonl:1: not a JSON object but list"),
        ("d.parquet", b"", "not a readable Parquet file"),
        ("d.parquet", b"junk", "not a readable Parquet file"),
        ("d.parquet", b"PAR1" + b"\x00" * 100 + b"PAR1", "not a readable Parquet file"),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=says):
        source(tmp_path / name)


def test_a_parquet_file_that_is_cut_or_damaged_is_refused(tmp_path):
    path = write_parquet(tmp_path / "d.parquet", ROWS * 1000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="not a readable Parquet file"):
        source(path)
    path.write_bytes(b"PAR1" + b"\xff" * (len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(DatasetError, match="not a readable Parquet file"):
        source(path)


def test_no_rows_in_a_parquet_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "d.parquet")
    with pytest.raises(DatasetError, match="no usable row: it is empty"):
        source(tmp_path / "d.parquet")


def test_links_pipes_and_files_without_permission(tmp_path):
    (tmp_path / "broken.jsonl").symlink_to(tmp_path / "gone.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, says in (("broken.jsonl", r"broken link: .*gone\.jsonl is not there"), ("pipe.jsonl", "neither a file")):
        with pytest.raises(DatasetError, match=says):
            source(tmp_path / name)
    write_lines(tmp_path / "d.jsonl", ROWS)
    (tmp_path / "good.jsonl").symlink_to("d.jsonl")
    assert len(golds(tmp_path / "good.jsonl")) == 6
    if os.geteuid():
        (tmp_path / "d.jsonl").chmod(0)
        with pytest.raises(DatasetError, match="cannot be read: Permission denied"):
            source(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("names", "split", "chosen"),
    [
        (["a.jsonl", "b.jsonl"], "train", ["a.jsonl", "b.jsonl"]),
        (["a.jsonl", "b.jsonl"], "test", []),
        (["train.jsonl", "test.jsonl", "train_extra.jsonl"], "train", ["train.jsonl"]),
        (["gsm8k_train.jsonl", "gsm8k_test.jsonl"], "test", ["gsm8k_test.jsonl"]),
        (["gsm8k_eval.jsonl", "dev.jsonl"], "test", ["gsm8k_eval.jsonl"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
         "train", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
        (["train/a.jsonl", "validation/a.jsonl"], "validation", ["validation/a.jsonl"]),
        (["test.jsonl", "valid.jsonl"], "train", []),
        (["train_sft-00000-of-00001.parquet", "train_gen-00000-of-00001.parquet"], "train_gen",
         ["train_gen-00000-of-00001.parquet"]),
        (["train.jsonl", "train.held-out.jsonl"], "train", ["train.jsonl"]),
        (["mix.jsonl", "mix.held-out.jsonl"], "train", ["mix.jsonl"]),
        (["mix.jsonl", "mix.held-out.jsonl"], "held-out", ["mix.held-out.jsonl"]),
    ],
)  # fmt: skip
def test_the_files_of_a_split(names, split, chosen):
    assert split_files(names, split) == chosen


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_folder_of_shards(tmp_path, suffix):
    write = write_lines if suffix == "jsonl" else write_parquet
    for shard in range(3):
        write(tmp_path / f"data/train-{shard:05d}-of-00003.{suffix}", ROWS[2 * shard : 2 * shard + 2])
    write(tmp_path / f"data/test-00000-of-00001.{suffix}", ROWS[:1])
    (tmp_path / ".cache").mkdir()
    write(tmp_path / f".cache/train.{suffix}", ROWS)
    data = open_dataset(DataSpec(path=str(tmp_path)))
    assert [row.gold for row in data] == list("012345")
    assert data[3].row_id == f"data/train-00001-of-00003.{suffix}:2"
    assert golds(tmp_path, limit_rows=3) == list("012")
    assert golds(tmp_path, split="test") == ["0"]
    assert len(data.sources[0].table.files) == 3


def test_a_folder_that_could_mean_several_things_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"holds neither \.jsonl nor \.parquet files"):
        source(tmp_path)
    write_lines(tmp_path / "main/train.jsonl", ROWS)
    write_lines(tmp_path / "socratic/train.jsonl", ROWS[:2])
    with pytest.raises(DatasetError, match="in main, socratic: set subset to one"):
        source(tmp_path)
    assert len(golds(tmp_path, subset="socratic")) == 2
    with pytest.raises(DatasetError, match=r"no files of the split 'test'; it has train \(main/train\.jsonl, soc"):
        source(tmp_path, split="test")
    with pytest.raises(DatasetError, match="is not a folder: mend subset"):
        source(tmp_path, subset="none")
    write_parquet(tmp_path / "main/train.parquet", ROWS)
    with pytest.raises(DatasetError, match=r"\.jsonl and \.parquet files side by side"):
        source(tmp_path, subset="main")


def test_a_folder_that_ends_like_a_file_is_a_folder(tmp_path):
    write_lines(tmp_path / "d.jsonl/train.jsonl", ROWS)
    assert len(golds(tmp_path / "d.jsonl")) == 6


def test_what_save_to_disk_wrote(tmp_path):
    library = pytest.importorskip("datasets")
    nested = [{"prompt": [{"role": "user", "content": f"p{i}"}], "reward_model": {"ground_truth": [str(i)]}}
              for i in range(3000)]  # fmt: skip
    one = library.Dataset.from_list(nested)
    one.shuffle(seed=1).save_to_disk(tmp_path / "one")
    library.DatasetDict(train=one, test=one.select(range(5))).save_to_disk(tmp_path / "two")
    assert sorted(map(int, golds(tmp_path / "one"))) == list(range(3000))
    data = open_dataset(DataSpec(path=str(tmp_path / "two"), split="test", limit_rows=4))
    assert [(row.gold, row.row_id, row.prompt.messages[0].content) for row in data] == [
        (str(i), f"two:{i + 1}", f"p{i}") for i in range(4)
    ]
    assert all(file.suffix == ".arrow" and file.exists() for file in data.sources[0].table.files)
    with pytest.raises(DatasetError, match=r"no split 'validation' \(it has train, test\): set split"):
        source(tmp_path / "two", split="validation")
    (tmp_path / "one/data-00000-of-00001.arrow").write_bytes(b"junk")
    with pytest.raises(DatasetError, match="cannot be loaded by the library datasets"):
        source(tmp_path / "one")


def test_a_hub_dataset_whose_files_the_library_cannot_read(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    write_lines(tmp_path / "files/train-00000-of-00002.jsonl", ROWS)
    write_lines(tmp_path / "files/train-00001-of-00002.jsonl", [{"other": [1]}])
    load = library.load_dataset

    def load_files(name, subset, *, split):
        return load(str(tmp_path / "files"), subset, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(library, "load_dataset", load_files)
    with pytest.raises(DatasetError, match=r"(?s)nobody/none cannot be loaded .*hf download.* and give the folder"):
        source("nobody/none")


def test_without_the_library_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"some/name needs the library datasets: run pip install '\.\[datasets\]'"):
        source("some/name")


def test_a_hub_name_without_a_hub(monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match=r"nobody-of-this-name/none: no hub can be reached .* a folder here begins"):
        source("nobody-of-this-name/none")
