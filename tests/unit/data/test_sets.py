"""Several sources, duplicates, the held-out split, and prompts of an evaluation."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.frontier import Frontier
from dapo.data import DatasetError, open_dataset, open_source, open_splits
from dapo.data.dataset import Conflict
from dapo.data.rows import is_held_out, prompt_hash
from dapo.spec import dump_yaml, parse_spec
from dapo.spec.tree.data import DataSpec, SourceSpec
from tests.support.data import shared, write_lines, write_parquet
from tests.support.spec import spec


def rows(start: int, stop: int) -> list[dict]:
    return [{"prompt": f"question {i}", "answer": i} for i in range(start, stop)]


@pytest.fixture
def mixture(tmp_path) -> dict:
    math = write_lines(tmp_path / "math/train.jsonl", [*rows(0, 8), {"prompt": 3, "answer": 3}])
    code = write_parquet(tmp_path / "code/train.parquet", rows(100, 103))
    return {
        "chat": True,
        "sources": {
            "math": {"path": str(math), "weight": 0.5, "grader": "math_verify"},
            "code": {"path": str(code), "weight": 2, "chat": False},
        },
    }


def test_sources_follow_each_other_and_keep_their_names(mixture):
    data = open_dataset(DataSpec.model_validate(mixture))
    assert len(data) == 11
    assert Counter((row.source, row.grader) for row in data) == {("math", "math_verify"): 8, ("code", None): 3}
    assert (data[0].row_id, data[8].row_id) == ("math/train.jsonl:1", "code/train.parquet:1")
    assert data[0].prompt.messages
    assert data[8].prompt.text == "question 100"
    assert [(bad.file, bad.line) for bad in data.malformed] == [("train.jsonl", 9)]
    assert data.parts == ((8, 0.5), (3, 2.0))


def test_an_epoch_of_a_mixture_holds_what_the_weights_promise(mixture):
    data = open_dataset(DataSpec.model_validate(mixture))
    frontier = Frontier(data.parts, seed=7, shuffle=True)
    assert len(frontier) == 4 + 6
    epochs = [Counter(data[frontier.next().row].gold for _ in range(10)) for _ in range(2)]
    for epoch in epochs:
        assert all(epoch[str(gold)] == 2 for gold in range(100, 103))
    assert (epochs[0] + epochs[1]).total() == 20
    assert {gold: count for gold, count in (epochs[0] + epochs[1]).items() if len(gold) == 1} == {
        str(gold): 1 for gold in range(8)
    }


def test_a_source_takes_from_data_what_it_does_not_set(mixture):
    tree = {"model": {"path": "/m"}, "data": mixture}
    parsed = parse_spec(json.dumps(tree))
    assert {name: source.chat for name, source in parsed.data.sources.items()} == {"math": True, "code": False}
    assert parse_spec(dump_yaml(parsed)) == parsed
    assert parse_spec(parsed.model_dump_json()) == parsed


def test_a_source_without_rows_left_is_no_part(tmp_path):
    first = write_lines(tmp_path / "a.jsonl", rows(0, 3))
    second = write_lines(tmp_path / "b.jsonl", rows(0, 2))
    sources = {"a": SourceSpec(path=str(first)), "b": SourceSpec(path=str(second))}
    data = open_dataset(DataSpec(sources=sources, deduplicate=True))
    assert (len(data), data.parts) == (3, ((3, 1.0),))
    assert len(open_dataset(DataSpec(sources=sources))) == 5


def test_neither_path_nor_sources():
    with pytest.raises(DatasetError, match=r"data\.path is not set, nor data\.sources"):
        open_dataset(DataSpec())


# -- duplicates


def test_duplicates_are_of_the_same_words_whatever_the_white_space(tmp_path):
    prompts = ["What is  1+1?", "what is 1+1?", " What\tis\n1+1? ", [{"role": "user", "content": "What is 1+1?"}]]
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1+1?"}]
    golds = [2, 2, "2", 3, 2]
    lines = [{"prompt": prompt, "answer": gold} for prompt, gold in zip([*prompts, system], golds, strict=True)]
    path = write_lines(tmp_path / "d.jsonl", lines)
    data = open_dataset(DataSpec(path=str(path)))
    found = data.duplicates()
    assert found.rows == 3
    assert found.conflicts == [Conflict("d.jsonl:4", "d.jsonl:1")]
    assert [row.row_id for row in data.deduplicated()] == ["d.jsonl:1", "d.jsonl:2"]
    assert len(open_dataset(DataSpec(path=str(path), deduplicate=True, prompt_template="Q: {prompt}"))) == 2


def test_the_duplicates_of_dapo_math():
    data = open_source(SourceSpec(path=shared("dapo_math_17k.parquet")), "dapo")
    found = data.duplicates()
    first, second = (next(row for row in data if row.row_id == one) for one in found.conflicts[0])
    assert first.gold != second.gold
    assert first.prompt.messages[0].content.split() == second.prompt.messages[0].content.split()
    assert len(data.deduplicated()) == len(data) - found.rows == len(data.prompt_hashes())


# -- held-out rows


questions = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=40)


@given(questions, questions, st.floats(0, 1), st.randoms())
def test_the_split_is_of_the_prompt_alone(some, more, share, random):
    def held_out(prompts: list[str]) -> set[str]:
        return {one for one in prompts if is_held_out(prompt_hash({"p": one}, "p"), share)}

    both = [*some, *more]
    random.shuffle(both)
    assert held_out(some) == held_out(both) & set(some)


def test_the_split_is_fixed_for_good(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", rows(0, 50))
    share = DataSpec(path=str(path), held_out_share=0.1)
    train, held_out = open_splits(share)
    assert held_out is not None
    assert [row.gold for row in held_out] == ["13", "34", "35", "39", "42"]
    assert len(train) == 45
    assert not held_out.prompt_hashes() & train.prompt_hashes()
    assert [row.gold for row in open_dataset(DataSpec(path=str(path))).split("held_out", 0.1)] == [
        "13",
        "34",
        "35",
        "39",
        "42",
    ]
    assert open_splits(DataSpec(path=str(path))).held_out is None


def test_equal_prompts_are_on_the_same_side(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [*rows(0, 300), *rows(0, 300)])
    held_out = open_splits(DataSpec(path=str(path), held_out_share=0.3)).held_out
    assert held_out is not None
    assert 2 * 60 <= len(held_out) <= 2 * 120
    assert set(Counter(row.gold for row in held_out).values()) == {2}


def test_a_split_that_leaves_nothing_is_refused(tmp_path):
    path = str(write_lines(tmp_path / "d.jsonl", rows(0, 2)))
    with pytest.raises(DatasetError, match=r"holds out none of 2 rows\. Raise it"):
        open_splits(DataSpec(path=path, held_out_share=1e-9))
    with pytest.raises(DatasetError, match=r"leaves no row to train on\. Lower it"):
        open_dataset(DataSpec(path=path, held_out_share=0.999999))


def test_prompts_of_an_evaluation_can_be_taken_out(tmp_path):
    train = open_source(SourceSpec(path=str(write_lines(tmp_path / "t.jsonl", rows(0, 10)))), "train")
    test = open_source(
        SourceSpec(path=str(write_lines(tmp_path / "e.jsonl", [{"question": "question  3", "answer": 0}]))), "test"
    )
    assert [row.gold for row in train.without(test.prompt_hashes())] == [str(i) for i in range(10) if i != 3]


# -- the spec


def test_hub_names_stay_and_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    write_lines(tmp_path / "some/folder/train.jsonl", rows(0, 1))
    tree = {"model": {"path": "/m"}, "data": {"sources": {"a": {"path": "some/folder"}, "b": {"path": "some/hub"}}}}
    sources = parse_spec(json.dumps(tree)).data.sources
    assert sources["a"].path == str(tmp_path / "some/folder")
    assert sources["b"].path == "some/hub"


def test_a_single_path_is_a_source_called_data():
    single = spec(data__chat=True, data__limit_rows=3).data.named_sources
    assert list(single) == ["data"]
    assert (single["data"].path, single["data"].chat, single["data"].limit_rows) == ("/data/d.jsonl", True, 3)
    assert (single["data"].weight, single["data"].grader) == (1.0, None)
