"""Repetition, reflection and fingerprint of a response's text."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.text_statistics import TextStatistics, fingerprint, has_reflection, measure_text, repetition_rate
from dapo.spec.tree.training import MetricsSpec

DEFAULT = MetricsSpec().reflection_patterns
any_text = st.text(st.characters())  # lone surrogates among them


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", 0),
        ("a a a a", 0),
        ("a a a a a", 1 / 2),
        ("the cat sat on the mat", 0),
        ("a b c d a b c d", 1 / 5),
        ("a b c d\n a\tb  c d", 1 / 5),
        ("no " * 1003, 999 / 1000),
    ],
)
def test_repetition_rate_by_hand(text: str, rate: float) -> None:
    assert repetition_rate(text) == pytest.approx(rate)


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_repetition_rate_is_the_share_of_ngrams_seen_before(words: list[str]) -> None:
    ngrams = [words[start : start + 4] for start in range(len(words) - 3)]
    before = sum(ngram in ngrams[:index] for index, ngram in enumerate(ngrams))
    assert repetition_rate(" ".join(words)) == pytest.approx(before / len(ngrams) if ngrams else 0)


@given(st.lists(st.integers(), unique=True, max_size=60))
def test_words_that_never_come_back_are_no_repetition(words: list[int]) -> None:
    assert repetition_rate(" ".join(map(str, words))) == 0


@given(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=30))
def test_a_text_said_twice_repeats_half_of_itself(words: list[str]) -> None:
    once = len(words) - 3
    assert repetition_rate(" ".join(words * 2)) >= once / (2 * len(words) - 3) - 1e-9


@given(any_text, any_text)
def test_fingerprints_are_equal_exactly_for_equal_texts(one: str, other: str) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert 0 <= fingerprint(one) < 2**64


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    program = "from dapo.algo.text_statistics import fingerprint; print(fingerprint('Answer: ½'))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(found) == fingerprint("Answer: ½")


@pytest.mark.parametrize(
    "text",
    [
        "However, wait a moment, let's rethink about the dihedral angle",
        "WAIT.",
        "Let me check this.",
        "let’s double-check",
        "Let us verify the result",
        "After re-evaluating the sum",
        "I should recheck",
    ],
)
def test_the_default_patterns_find_reflection(text: str) -> None:
    assert has_reflection(text, DEFAULT)


@pytest.mark.parametrize("text", ["", "She waited", "await x", "However, x > 0", "Let us add both sides", "a check"])
def test_the_default_patterns_leave_the_rest_alone(text: str) -> None:
    assert not has_reflection(text, DEFAULT)


@given(any_text, any_text, st.sampled_from(["wait", "Let me check", "re-evaluate"]))
def test_a_marker_is_found_wherever_it_stands(before: str, after: str, marker: str) -> None:
    assert has_reflection(f"{before}\n{marker}\n{after}", DEFAULT)
    assert not has_reflection(marker, [])


@given(any_text)
def test_any_text_is_measured_and_survives_json(text: str) -> None:
    measured = measure_text(text, DEFAULT)
    assert measured == (fingerprint(text), repetition_rate(text), has_reflection(text, DEFAULT))
    assert 0 <= measured.repetition < 1
    assert TextStatistics(*json.loads(json.dumps(measured))) == measured
