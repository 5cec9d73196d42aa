"""Text to spec and back; each refusal is one readable line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dapo.spec import RunSpec, SpecError, dump_yaml, load_spec, parse_spec
from dapo.spec.load import missing_inputs, show_yaml, unfit_inputs
from dapo.spec.tree.fields import field_rows
from tests.support.paths import REPO
from tests.support.spec import MINIMAL_YAML, refusal, spec, tree

EXAMPLES = REPO / "examples"


def write(tmp_path: Path, text: str = MINIMAL_YAML) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_load_and_round_trip(path: Path) -> None:
    loaded = load_spec(path)
    assert parse_spec(dump_yaml(loaded)) == loaded


def test_there_are_three_examples() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} >= {"reverse", "smollm2-math", "qwen2.5-32b-dapo"}


def test_paper_example_has_the_papers_values() -> None:
    paper = load_spec(EXAMPLES / "qwen2.5-32b-dapo.yaml")
    assert (paper.training.prompts_per_step, paper.sampling.group_size, paper.training.updates_per_step) == (
        512,
        16,
        16,
    )
    assert (paper.sampling.max_response_tokens, paper.reward.overlong_buffer_tokens) == (20480, 4096)
    assert (paper.algorithm.clip_low, paper.algorithm.clip_high, paper.algorithm.kl_coefficient) == (0.2, 0.28, 0)
    assert (paper.optimizer.learning_rate, paper.optimizer.warmup_steps) == (1e-6, 20)
    assert (paper.optimizer.weight_decay, paper.optimizer.betas, paper.optimizer.gradient_clip) == (
        0.1,
        (0.9, 0.999),
        1,
    )
    assert paper.model.path == "Qwen/Qwen2.5-32B"


def test_word_problems_are_well_formed() -> None:
    rows = [json.loads(line) for line in (EXAMPLES / "data" / "word_problems.jsonl").read_text().splitlines()]
    assert len(rows) == 200
    assert len({row["question"] for row in rows}) == 200
    assert all(set(row) == {"question", "answer"} and int(row["answer"]) >= 0 for row in rows)


# -- reading


def test_yaml_and_json_give_the_same_spec() -> None:
    fields = tree(optimizer__learning_rate=1e-4, data__prompt_template="\U0001f600 {prompt}")
    assert parse_spec(json.dumps(fields)) == parse_spec(yaml.safe_dump(fields)) == RunSpec.model_validate(fields)


def test_numbers_without_a_dot_are_numbers() -> None:
    assert (
        parse_spec(MINIMAL_YAML + "optimizer: {learning_rate: 1e-4, weight_decay: 1E-2}").optimizer.learning_rate
        == 1e-4
    )


def test_flow_mapping_is_yaml_not_json() -> None:
    assert parse_spec("{model: {path: /m}, data: {path: /d.jsonl}}") == parse_spec(MINIMAL_YAML)


def test_dates_are_text() -> None:
    assert parse_spec(MINIMAL_YAML + "name: 2026-01-31").name == "2026-01-31"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the spec is empty"),
        ("# only a comment\n", "the spec is empty"),
        ("- a\n- b\n", "must be a mapping of sections"),
        ("model: {path: /m\ndata: 3\n", "line 2, column"),
        (MINIMAL_YAML + "seed: 1\nname: x\nseed: 2\n", "line 5, column 1: `seed` is written twice"),
        ('{"seed": 1, "seed": 2}', "`seed` is written twice"),
        ("[" * 20000, "nested too deeply"),
        ('{"a": ' * 20000, "nested too deeply"),
        (MINIMAL_YAML + "seed: " + "9" * 5000, "number that cannot be read"),
        (MINIMAL_YAML + "seed: 0b_", "number that cannot be read"),
        (MINIMAL_YAML + "name: !!python/object/apply:os.getcwd []", "line 3, column 7: a spec has no tags"),
        (MINIMAL_YAML + "name: \x00", "not YAML"),
    ],
)
def test_broken_text_is_refused_in_one_line(text: str, says: str) -> None:
    [line] = refusal(text)
    assert says in line


@given(st.text())
def test_any_text_is_a_spec_or_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        parse_spec(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    st.sampled_from(sorted(field_rows())),
)
def test_any_value_of_any_field_is_taken_or_refused_readably(value: Any, path: str) -> None:
    try:
        parse_spec(json.dumps(tree(**{path.replace(".", "__"): value})))
    except SpecError as error:
        for problem in error.problems:
            assert problem.message
            json.dumps(dataclasses.asdict(problem)).encode()
            assert "\n" not in str(problem.value)


# -- files and overrides


def test_overrides_are_yaml_values(tmp_path: Path) -> None:
    loaded = load_spec(
        write(tmp_path),
        [
            "training.steps=7",
            "optimizer.betas=[0.8, 0.9]",
            "data.chat=true",
            "algorithm.dual_clip=null",
            "seed=1",
            "seed=2",
            "data.gold_field=a=b",
            "optimizer.learning_rate=3e-5",
        ],
    )
    assert loaded.training.steps == 7
    assert loaded.optimizer.betas == (0.8, 0.9)
    assert loaded.data.chat is True
    assert (loaded.seed, loaded.data.gold_field, loaded.optimizer.learning_rate) == (2, "a=b", 3e-5)


def test_override_goes_below_an_empty_section(tmp_path: Path) -> None:
    assert load_spec(write(tmp_path, MINIMAL_YAML + "training:\n"), ["training.steps=7"]).training.steps == 7


def test_override_can_switch_the_preset(tmp_path: Path) -> None:
    assert load_spec(write(tmp_path), ["algorithm.preset=grpo"]).algorithm.kl_coefficient == 0.04


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.steps", "--set training.steps: write it as section.field=value"),
        ("=3", "write it as section.field=value"),
        ("training..steps=3", "write it as section.field=value"),
        ("training.steps=[", "--set training.steps=[: the value is not YAML: line 1"),
        ("seed.deep=3", "seed.deep = 3: seed is no section, it is 4"),
        ("training.stepz=3", "Did you mean training.steps?"),
        ("training.steps=0", "training.steps = 0: there is nothing to do"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(write(tmp_path, MINIMAL_YAML + "seed: 4\n"), [override])
    assert says in str(error.value)


def test_paths_resolve_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    path = write(specs, "model: {path: here}\ndata: {path: sub/../d.jsonl}\n")
    loaded = load_spec(path)
    assert (loaded.model.path, loaded.data.path) == (str(tmp_path / "here"), str(tmp_path / "d.jsonl"))
    assert load_spec(path, ["model.path=./new"]).model.path == str(tmp_path / "new")
    assert load_spec(path, ["model.path=Qwen/Qwen2.5-32B"]).model.path == "Qwen/Qwen2.5-32B"


def test_unreadable_files(tmp_path: Path) -> None:
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, says in [(tmp_path / "none.yaml", "No such file"), (tmp_path, "directory"), (binary, "not UTF-8")]:
        with pytest.raises(SpecError, match=says):
            load_spec(path)


def test_missing_inputs(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "d.jsonl"
    loaded = spec(model__path=str(model), data__path=str(data))
    assert [problem.field for problem in missing_inputs(loaded)] == ["model.path", "data.path"]
    model.mkdir()
    (model / "config.json").write_text("{}")
    data.write_text("")
    assert missing_inputs(loaded) == []
    assert [problem.field for problem in missing_inputs(spec(model__path="Qwen/Qwen2.5-32B"))] == ["data.path"]
    sources = {"a": {"path": str(data)}, "b": {"path": str(model)}, "c": {"path": "some/hub"}, "d": {"path": "/none"}}
    loaded = spec(model__path=str(model), data={"sources": sources})
    assert [problem.field for problem in missing_inputs(loaded)] == ["data.sources.d.path"]


@pytest.mark.parametrize(
    ("context", "fields", "cure"),
    [
        (1002, {}, None),
        (1001, {}, "Set at most 899 or data.max_prompt_tokens to at most 99"),
        (502, {}, "Set at most 400"),
        (502, {"data__max_prompt_tokens": 600, "sampling__max_response_tokens": 400}, "tokens to at most 100"),
        (90, {}, "Set both, to no more than 88 together"),
    ],
)
def test_sequences_that_do_not_fit_the_models_context_are_refused_with_the_cure(
    tmp_path: Path, context: int, fields: dict[str, int], cure: str | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    limits = {"data__max_prompt_tokens": 100, "sampling__max_response_tokens": 900, **fields}
    found = unfit_inputs(spec(model__path=str(tmp_path), reward__overlong_buffer_tokens=10, **limits))
    assert [problem.field for problem in found] == ["sampling.max_response_tokens"] * (cure is not None)
    assert all(f"{context} tokens" in problem.message and (cure or "") in problem.message for problem in found)


@pytest.mark.parametrize("text", ["{", "[]", "", '{"max_position_embeddings": null}'])
def test_a_config_that_says_nothing_of_the_context_is_no_obstacle_unless_it_cannot_be_read(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    broken = text in ("{", "")
    found = unfit_inputs(spec(model__path=str(tmp_path)))
    assert ["cannot be read" in problem.message for problem in found] == [True] * broken


def test_of_a_model_that_is_elsewhere_nothing_is_said(tmp_path: Path) -> None:
    assert unfit_inputs(spec(model__path=str(tmp_path))) == unfit_inputs(spec(model__path="Qwen/Qwen2.5-32B")) == []


def test_passwords_in_overrides_do_not_show(tmp_path: Path) -> None:
    url = "resources.redis.url=redis://u:secret@host"
    with pytest.raises(SpecError) as error:
        load_spec(write(tmp_path), [url, "resources.redis.url.deep=redis://u:secret@host"])
    assert "secret" not in str(error.value)


# -- writing


def test_dump_is_ordered_as_the_tree_and_complete() -> None:
    written = yaml.safe_load(dump_yaml(spec()))
    assert list(written) == list(RunSpec.model_fields)
    assert list(written["optimizer"]) == [
        "learning_rate", "betas", "epsilon", "weight_decay", "warmup_steps", "gradient_clip", "schedule",
        "final_rate",
    ]  # fmt: skip
    # Readers of YAML 1.1 see numbers too.
    assert written["optimizer"]["learning_rate"] == 1e-6


def test_dump_reads_well() -> None:
    text = dump_yaml(spec(data__prompt_template="Solve:\n\n{prompt}\n\nEnd."))
    assert "prompt_template: |-\n    Solve:\n\n    {prompt}\n\n    End.\n" in text
    assert "betas: [0.9, 0.999]\n" in text
    assert text.startswith("name: run\nseed: 0\n\nmodel:\n")


def test_a_spec_is_shown_without_passwords(tmp_path: Path) -> None:
    judge = {"type": "judge", "url": "https://me:secret@judge/v1?key=secret", "model": "m", "rubric": "r"}
    urls = {"url": "redis://me:secret@host:6379/1", "payload_url": "unix:///run/a.sock?password=secret"}
    loaded = spec(resources__redis=urls, reward__graders={"mine": judge})
    text = show_yaml(loaded)
    assert "secret" not in text
    assert "url: redis://***@host:6379/1\n" in text
    assert "secret" in dump_yaml(loaded)
    assert show_yaml(spec()) == dump_yaml(spec())


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60)
@given(
    field=texts,
    before=texts,
    after=texts,
    rate=st.floats(1e-300, 1e300),
    incorrect=st.floats(-1e6, -1e-9),
    labels=st.dictionaries(texts, st.floats(0, 1), max_size=3),
    seed=st.integers(0, 2**31 - 1),
    preset=st.sampled_from(["dapo", "grpo", "ppo", "verl-parity"]),
)
def test_dump_and_parse_round_trip(
    field: str, before: str, after: str, rate: float, incorrect: float, labels: dict[str, float], seed: int, preset: str
) -> None:
    original = spec(
        data__gold_field=field,
        data__prompt_template=before + "{prompt}" + after,
        optimizer__learning_rate=rate,
        reward__incorrect=incorrect,
        metrics__reference_accuracy=labels,
        seed=seed,
        algorithm__preset=preset,
    )
    assert parse_spec(dump_yaml(original)) == original
    assert parse_spec(original.model_dump_json()) == original
