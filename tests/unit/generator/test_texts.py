"""What graders read of token ids, and where a stop string ends a response."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from services.generator.engine.responses import Span, StreamedResponse
from services.generator.texts import ReadResponse, ResponseReader, special_ids

WORDS = ["4", "2", "a", "b", "c", "ab", "bc.", "ca", " ", "\u0120", "\u00c3", "\u00a9"]
"""Of a byte-level vocabulary: the last two are the bytes of é."""
STOPS = ["abc", "cab", "é"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="4"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", additional_special_tokens=["<answer>", "</answer>"]
    )
    # Special by its flag alone, as tool tokens of some models are.
    tokenizer.add_tokens([AddedToken("<tool>", special=True), AddedToken("<think>", special=False)])
    return tokenizer


TOKENIZER = make_tokenizer()


def ids(*tokens: str) -> list[int]:
    return TOKENIZER.convert_tokens_to_ids(list(tokens))


def read(tokens: Sequence[int], *stop: str, hidden: Sequence[int] = ()) -> ReadResponse:
    (found,) = ResponseReader(TOKENIZER, hidden=hidden or ids("<eos>", "<pad>"), stop=stop).read([tokens])
    return found


def test_graders_see_special_tokens_but_end_and_padding() -> None:
    tokens = ids("<think>", "2", "<answer>", "4", "2", "</answer>", "<tool>", "<eos>", "<pad>")
    assert read(tokens) == ("<think>2<answer>42</answer><tool>", 9, False)
    assert read(tokens, hidden=list(special_ids(TOKENIZER))).text == "<think>242"


def test_a_stop_string_ends_text_and_tokens() -> None:
    """The text with the string; the tokens with the one that completes it, whole, though the string ends within it."""
    assert read(ids("4", "a", "bc.", "2"), "abc") == ("4abc", 3, True)
    assert read(ids("4", "a", "bc."), "abc") == ("4abc", 3, True)
    assert read(ids("4", "a", "b"), "abc") == ("4ab", 3, False)


def test_of_several_stop_strings_the_one_complete_first_ends_the_response() -> None:
    assert read(ids("a", "b", "c", "a", "b"), "cab", "bc") == ("abc", 3, True)
    assert read(ids("a", "bc."), "c.", "bc") == ("abc", 2, True)


def test_a_special_token_may_be_a_stop_string_also_one_that_graders_do_not_see() -> None:
    tokens = ids("<answer>", "4", "</answer>", "2")
    assert read(tokens, "</answer>") == ("<answer>4</answer>", 3, True)
    assert read(tokens, "</answer>", hidden=list(special_ids(TOKENIZER))) == ("4", 3, True)


def test_a_character_that_takes_two_tokens_is_found_with_the_second() -> None:
    assert read(ids("a", "\u00c3", "\u00a9", "b"), "é") == ("aé", 3, True)


def test_what_only_reads_as_a_stop_string_without_its_hidden_tokens_is_none() -> None:
    assert read(ids("a", "b", "<pad>", "c", "2"), "abc") == ("abc2", 5, False)
    assert read(ids("a", "<pad>", "bc.", "a", "bc."), "abc") == ("abc.abc", 5, True)


@pytest.mark.parametrize("empty", [[], ids("<eos>")])
def test_nothing_but_an_end_is_read_as_no_text(empty: list[int]) -> None:
    assert read(empty, "abc") == ("", len(empty), False)


@given(st.lists(st.sampled_from(range(len(TOKENIZER))), max_size=12))
def test_the_last_token_kept_is_the_first_that_completes_a_stop_string(tokens: list[int]) -> None:
    whole = [TOKENIZER.decode(tokens[:count]) for count in range(len(tokens) + 1)]
    complete = [count for count, text in enumerate(whole) if any(stop in text for stop in STOPS)]
    # Where a hidden token stands amid a character, the character is whole once it is left out.
    assume("\ufffd" not in whole[-1])
    found = read(tokens, *STOPS)
    assert (found.tokens, found.stopped) == ((complete[0], True) if complete else (len(tokens), False))
    end = min(
        (whole[found.tokens].find(stop) + len(stop) for stop in STOPS if stop in whole[found.tokens]), default=None
    )
    assert found.text == whole[found.tokens][:end].replace("<eos>", "").replace("<pad>", "")


def test_a_response_is_cut_with_its_logprobs_and_versions() -> None:
    spans = [Span("1.0", 0, 2), Span("1.1", 2, 4)]
    whole = StreamedResponse("r", [1, 2, 3, 4], [-0.1, -0.2, -0.3, -0.4], spans, "length")
    assert whole.cut(3) == StreamedResponse("r", [1, 2, 3], [-0.1, -0.2, -0.3], [spans[0], Span("1.1", 2, 3)], "stop")
    assert whole.cut(2) == StreamedResponse("r", [1, 2], [-0.1, -0.2], spans[:1], "stop")
    assert whole.cut(4) == StreamedResponse("r", whole.ids, whole.logprobs, spans, "stop")
