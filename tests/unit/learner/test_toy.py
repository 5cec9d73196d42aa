"""The toy's task with pauses: what counts as right, and how many pauses it draws."""

import random
from statistics import fmean

import pytest
import torch

from services.learner.starters.toy import _REVERSE, ToyTask, answered, char_tokenizer, encode, random_rows

PAUSE, END = 9, 8
GOLD = [1, 2, END]


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ([1, 2, END, 0, 0], True),
        ([PAUSE, PAUSE, 1, 2, END], True),
        ([PAUSE, PAUSE, PAUSE, 1, 2], False),  # Cut before its end.
        ([1, PAUSE, 2, END, 0], False),
        ([2, 1, END, 0, 0], False),
        ([PAUSE] * 5, False),
    ],
)
def test_an_answer_may_follow_pauses_within_the_limit(response: list[int], right: bool) -> None:
    assert answered(torch.tensor([response]), torch.tensor([GOLD]), PAUSE).tolist() == [right]


def test_pauses_are_geometric_up_to_the_limit() -> None:
    rng = random.Random(0)
    drawn = [len(ToyTask(pauses=6, limit=500).draw_pauses(rng)) for _ in range(4000)]
    assert fmean(drawn) == pytest.approx(6, abs=0.4)
    assert fmean(length > 10 for length in drawn) == pytest.approx((6 / 7) ** 11, abs=0.03)
    assert max(len(ToyTask(pauses=6, limit=16).draw_pauses(rng)) for _ in range(1000)) == 17


def test_without_pauses_nothing_is_drawn() -> None:
    rng = random.Random(0)
    before = rng.getstate()
    assert _REVERSE.draw_pauses(rng) == ""
    assert rng.getstate() == before
    assert len(char_tokenizer(_REVERSE.alphabet)) + 1 == len(char_tokenizer(ToyTask(pauses=1).alphabet))


def test_rows_with_fewer_pauses_are_padded_on_the_right() -> None:
    tokenizer = char_tokenizer(ToyTask(pauses=1).alphabet)
    ids = encode(tokenizer, random_rows(2, random.Random(0)), ["", "  "])
    assert ids.shape == (2, 14)
    assert ids[0, -2:].tolist() == [tokenizer.pad_token_id] * 2
    assert ids[0, -3] == ids[1, -1] == tokenizer.eos_token_id
