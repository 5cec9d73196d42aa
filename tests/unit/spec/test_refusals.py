"""Each refusal of a field names the field, its value and the cure, and shows no password."""

import pytest

from tests.support.spec import MINIMAL_YAML, refusal


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "optimizer: {learning_rate: -1}",
            "optimizer.learning_rate = -1: must be greater than 0. Set a number (> 0); the default is 1e-6",
        ),
        (
            "sampling: {group_size: 2.5}",
            "sampling.group_size = 2.5: must be an integer. Set an integer (≥ 1); the default is 16",
        ),
        (
            "optimizer: {betas: [0.9]}",
            "optimizer.betas.1: is required. Set [number, number] (≥ 0, < 1); the default is [0.9, 0.999]",
        ),
        (
            "optimizer: {betas: [0.9, 2.0]}",
            "optimizer.betas.1 = 2.0: must be less than 1. Set [number, number] (≥ 0, < 1); the default is [0.9, ",
        ),
        ("algorithm: {dual_clip: none}", "algorithm.dual_clip = none: must be a number. Write null for none"),
        (
            "algorithm: {preset: reinforce}",
            "algorithm.preset = reinforce: is not one of the choices. Set dapo or grpo or ppo or verl-parity; the "
            "default is dapo",
        ),
        ("sampling: 3", "sampling = 3: is a section. Put its fields below it: group_size, temperature, top_p, top_k, "),
        ("training: {stepz: 3}", "training.stepz = 3: is no field of a spec. Did you mean training.steps? "),
        ("learning_rate: 3", "learning_rate = 3: is no field of a spec. Did you mean optimizer.learning_rate? "),
        (
            "training: {group_size: 3}",
            "training.group_size = 3: is no field of a spec. Did you mean sampling.group_size? ",
        ),
        (
            "optimiser: {learning_rate: 3}",
            "optimiser: is no field of a spec. Did you mean optimizer? A spec has name, ",
        ),
        ("zzz: 3", "zzz = 3: is no field of a spec. A spec has name, seed, model, "),
        ("metrics: {reference_accuracy: {paper: 50}}", "metrics.reference_accuracy.paper = 50: must be at most 1. "),
        ("name: Big Run", "name = Big Run: does not have the right form. "),
        ("1: 2", "1 = 1: field names are text"),
        (
            "evaluation: {sets: {a: {pat: x, path: d.jsonl}}}",
            "evaluation.sets.a.pat = x: is no field of a spec. Did you mean evaluation.sets.a.path?",
        ),
        ("evaluation: {sets: {a: {}}}", "evaluation.sets.a.path: is required. As `data.path`."),
        ("evaluation: {sets: {a: 3}}", "evaluation.sets.a = 3: is a section. Put its fields below it: path, subset"),
        (
            "reward: {graders: {m: {type: cod}}}",
            "reward.graders.m.type = cod: is not one of the choices. Set exact or ",
        ),
        ("reward: {graders: {m: {}}}", "reward.graders.m.type: is required. Set exact or regex or"),
        (
            "reward: {graders: {m: {type: code, timeout_s: 0}}}",
            "reward.graders.m.timeout_s = 0: must be greater than 0. Set a number (> 0); the default is 5.0",
        ),
    ],
)
def test_refusal_names_field_value_and_cure(text: str, line: str) -> None:
    [said] = refusal(MINIMAL_YAML + text)
    assert said.startswith(line)


def test_missing_fields_say_what_they_are() -> None:
    assert refusal("model: {}\n") == [
        "model.path: is required. Directory in Hugging Face format, or a hub name where a hub can be reached.",
        "data: is required. Add the section with at least data.path",
    ]


def test_long_values_are_shortened() -> None:
    [line] = refusal(MINIMAL_YAML + f"name: {'x' * 500}")
    assert "x" * 70 in line
    assert "x" * 90 not in line


def test_passwords_do_not_show() -> None:
    lines = refusal(MINIMAL_YAML + "resources: {redis: {url: 'user:secret@host', payload_url: 'http://u:secret@host'}}")
    assert len(lines) == 2
    assert not any("secret" in line for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "resources: {redis: {uri: 'redis://u:secret@host'}}",
        "resources: {redis: 'redis://u:secret@host'}",
        "resources: {redis: {url: ['redis://u:secret@host']}}",
        "resources: {redis: {url: 'redis:/u:secret@host'}}",
        f"resources: {{redis: {{url: 'http://u/secret{'x' * 90}@host'}}}}",
        "reward: {graders: {mine: {type: remote, url: 'ftp://u:secret@host'}}}",
    ],
)
def test_passwords_do_not_show_wherever_the_url_stands(text: str) -> None:
    [line] = refusal(MINIMAL_YAML + text)
    assert "secret" not in line
