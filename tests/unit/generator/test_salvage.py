"""Responses that another request goes on with: what is known of them, and how the parts are joined."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import SamplingParams
from services.generator.engine.responses import NOTHING, Prefix, Span, StreamedResponse, covers, join_spans
from services.generator.salvage import LEAST_TOKENS, Unfinished, read_prefix
from services.generator.texts import ResponseReader
from services.generator.writer import FinishedResponse, build_completion, build_payload
from tests.support.models import ALPHABET, char_tokenizer

RID = "g0000000001-0000-0000"


def event(
    ids: list[int], sent: int, versions: list[str], finish: dict[str, Any] | None = None, *, told: bool = True
) -> dict[str, Any]:
    """The tokens `ids` behind `sent` others; `versions` names the one of each token of the request up to now."""
    meta: dict[str, Any] = {
        "finish_reason": finish,
        "completion_tokens": sent + len(ids),
        "output_token_logprobs": [[-token / 100, token, None] for token in ids],
    }
    if told:
        meta["weight_versions"] = spans_of(versions)
    return {"output_ids": ids, "meta_info": meta}


def spans_of(versions: list[str]) -> list[dict[str, Any]]:
    cuts = [0, *(at for at in range(1, len(versions)) if versions[at] != versions[at - 1]), len(versions)]
    return [{"version": versions[start], "start": start, "end": end} for start, end in pairwise(cuts)]


def prefix_of(ids: list[int], version: str = "1.0") -> Prefix:
    return Prefix(tuple(ids), tuple(-token / 100 for token in ids), (Span(version, 0, len(ids)),))


@st.composite
def tries(draw: st.DrawFn) -> list[list[tuple[list[int], list[str], bool]]]:
    """Requests one after the other: of each its events (tokens, the version of each, whether spans are told)."""
    version, made = 0, []
    for _ in range(draw(st.integers(1, 4))):
        events = []
        for _ in range(draw(st.integers(1, 4))):
            ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=12))
            names = []
            for _ in ids:
                version += draw(st.integers(0, 9)) == 0
                names.append(f"1.{version}")
            events.append((ids, names, draw(st.booleans())))
        made.append(events)
    return made


@given(tries())
def test_what_goes_on_is_joined_token_by_token_with_its_logprobs_and_versions(
    made: list[list[tuple[list[int], list[str], bool]]],
) -> None:
    """Each request begins with what was known of the one before; the last one ends. Every token that came after the
    last span was told is sampled anew."""
    unfinished = Unfinished()
    ids: list[int] = []
    versions: list[str] = []
    for number, events in enumerate(made):
        (response,) = unfinished.begin({RID: 0}, 10_000)
        kept = len(response.prefix)
        assert kept in (0, len(ids))
        ids, versions = ids[:kept], versions[:kept]
        known, sent = kept, 0
        for at, (new, names, told) in enumerate(events):
            last = number == len(made) - 1 and at == len(events) - 1
            ids, versions = ids + new, versions + names
            finish = {"type": "length"} if last else None
            response.extend(event(new, sent, versions[kept:], finish, told=told or last))
            sent += len(new)
            known = len(ids) if told or last else known
        assert response.known() == Prefix(tuple(ids[:known]), tuple(response.logprobs[:known]), response.known().spans)
        ids, versions = ids[:known], versions[:known]
        assert unfinished.prefixes().get(0, NOTHING) == (response.known() if known >= LEAST_TOKENS else NOTHING)
        unfinished.end(well=False)
    assert response.ids == ids
    assert response.logprobs == [-token / 100 for token in ids]
    assert covers(response.spans, len(ids))
    assert [span.version for span in response.spans for _ in range(span.start, span.end)] == versions
    assert all(one.version != two.version for one, two in pairwise(response.spans))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 60))
def test_a_cut_prefix_keeps_the_spans_of_its_tokens(lengths: list[int], tokens: int) -> None:
    ends = [sum(lengths[: at + 1]) for at in range(len(lengths))]
    spans = tuple(
        Span(f"1.{at}", end - length, end) for at, (end, length) in enumerate(zip(ends, lengths, strict=True))
    )
    whole = Prefix(tuple(range(ends[-1])), (-0.5,) * ends[-1], spans)
    cut = whole.cut(tokens)
    assert len(cut) == len(cut.logprobs) == min(tokens, ends[-1])
    assert covers(cut.spans, len(cut))


def test_spans_that_meet_in_one_version_are_one() -> None:
    first = [Span("1.0", 0, 2), Span("1.1", 2, 5)]
    assert join_spans(first, [Span("1.1", 5, 7), Span("1.2", 7, 8)]) == [
        Span("1.0", 0, 2), Span("1.1", 2, 7), Span("1.2", 7, 8),
    ]  # fmt: skip
    assert join_spans(first, [Span("1.2", 5, 7)]) == [*first, Span("1.2", 5, 7)]
    assert join_spans([], first) == join_spans(first, []) == first


def test_a_request_that_goes_on_asks_for_the_rest_alone() -> None:
    sampling = SamplingParams(1.0, 20, (3,))
    assert [len(one.ids) for one in Unfinished().begin({"a": 0}, 1)] == [0]
    unfinished = Unfinished()
    unfinished.found({0: prefix_of(list(range(10))), 1: prefix_of(list(range(40))), 2: prefix_of([5] * 3)})
    begun = unfinished.begin({"a": 0, "b": 1, "c": 2, "d": 3}, sampling.max_new_tokens)
    assert [len(response.ids) for response in begun] == [10, 12, 0, 0]
    assert [sampling.to_json(len(one.ids))["max_new_tokens"] for one in begun] == [10, 8, 20, 20]


def test_where_one_version_is_wanted_only_its_own_tokens_go_on() -> None:
    mixed = Prefix((1,) * 10, (-0.1,) * 10, (Span("1.0", 0, 4), Span("1.1", 4, 10)))
    unfinished = Unfinished()
    unfinished.found({0: prefix_of([1] * 10, "1.0"), 1: prefix_of([1] * 10, "1.1"), 2: mixed})
    begun = unfinished.begin({"a": 0, "b": 1, "c": 2}, 100, "1.1")
    assert [len(response.ids) for response in begun] == [0, 10, 0]


def test_a_prefix_that_brings_no_further_token_is_given_up_unless_the_request_was_well() -> None:
    for well, kept in ((False, {}), (True, {0: prefix_of([1] * 10)})):
        unfinished = Unfinished()
        unfinished.found({0: prefix_of([1] * 10)})
        unfinished.begin({RID: 0}, 100)
        unfinished.end(well=well)
        assert unfinished.prefixes() == kept
        assert unfinished.sizes() == {index: len(prefix) for index, prefix in kept.items()}


def test_finished_responses_are_no_longer_kept() -> None:
    unfinished = Unfinished()
    unfinished.found({0: prefix_of([1] * 10), 1: prefix_of([2] * 10)})
    unfinished.begin({"a": 0, "b": 1}, 100)
    unfinished.finished(0)
    assert unfinished.prefixes().keys() == {1}


ABORT = {"type": "abort", "message": "Aborted"}


def test_the_tokens_of_an_abort_belong_to_the_response_unless_they_came_before() -> None:
    response = StreamedResponse.after(RID, prefix_of([7] * 8))
    assert response.extend(event([1, 2], 0, ["1.0"] * 2)) == 2
    assert response.extend(event([3], 2, ["1.0", "1.0", "1.1"], ABORT)) == 1
    assert (response.finish, response.ids[8:]) == ("abort", [1, 2, 3])
    assert response.known().spans == (Span("1.0", 0, 10), Span("1.1", 10, 11))

    repeated = StreamedResponse.after(RID, prefix_of([7] * 8))
    repeated.extend(event([1, 2], 0, ["1.0"] * 2))
    assert repeated.extend({**event([2], 1, ["1.0"] * 2, ABORT)}) == 0
    assert (repeated.ids[8:], repeated.known().spans) == ([1, 2], (Span("1.0", 0, 10),))


@pytest.mark.parametrize(
    ("last", "most", "finish"), [(3, 20, "stop"), (3, 11, "stop"), (5, 11, "length"), (5, 20, "abort")]
)
def test_a_response_is_complete_whose_last_token_came_with_an_abort(last: int, most: int, finish: str) -> None:
    """SGLang samples one more token when it ends a request; to go on behind the one that ends a turn would be wrong."""
    response = StreamedResponse.after(RID, prefix_of([7] * 8))
    response.extend(event([1, 2, last], 0, ["1.0"] * 3, ABORT))
    response.conclude([3], most)
    assert response.finish == finish


def test_an_abort_without_a_new_token_completes_nothing() -> None:
    response = StreamedResponse.after(RID, prefix_of([7] * 8))
    response.extend({**event([7], -1, ["1.0"], ABORT)})
    response.conclude([7], 8)
    assert (response.finish, len(response.ids)) == ("abort", 8)


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_response_that_was_taken_up_is_written_whole(finish: str) -> None:
    response = StreamedResponse.after(RID, prefix_of([7] * 8))
    response.extend(event([1, 2], 0, ["1.1"] * 2, {"type": finish}))
    payload = build_payload([5, 6], response)
    finished = FinishedResponse("g0000000001", 0, 10, [5, 6], response)
    names = {"payload_key": "p", "text_key": "t", "generator_id": "generator-0", "prompt_end": ""}
    completion = build_completion(finished, payload, **names)
    assert (completion.response_tokens, completion.salvaged_tokens) == (10, 8)
    assert (completion.version_min, completion.version_max) == (0, 1)
    assert read_prefix(payload.SerializeToString(), [5, 6]) == Prefix(
        (*[7] * 8, 1, 2), tuple(payload_logprobs(payload)), (Span("1.0", 0, 8), Span("1.1", 8, 10))
    )


def payload_logprobs(payload: pb.CompletionPayload) -> list[float]:
    from dapo.contracts.arrays import decode_logprobs

    return decode_logprobs(payload.logprobs)


def test_what_is_no_beginning_of_a_response_to_the_prompt_is_not_read() -> None:
    payload = build_payload([5, 6], StreamedResponse.after("", prefix_of([1] * 9)))
    assert read_prefix(payload.SerializeToString(), [5, 6]) is not None
    assert read_prefix(payload.SerializeToString(), [5, 7]) is None
    assert read_prefix(b"\xff", [5, 6]) is None
    payload.spans[0].end = 8
    assert read_prefix(payload.SerializeToString(), [5, 6]) is None
    payload.spans[0].end, payload.logprobs = 9, payload.logprobs[:-3]
    assert read_prefix(payload.SerializeToString(), [5, 6]) is None


@given(st.integers(1, 11))
def test_a_stop_string_across_the_joint_ends_the_response(joint: int) -> None:
    """The engine looks at what it has sampled itself, so it goes on behind such a stop string; what is written ends."""
    text = "abcadeadbcab"
    ids = [ALPHABET.index(letter) for letter in text]
    response = StreamedResponse.after(RID, prefix_of(ids[:joint]))
    response.extend(event(ids[joint:], 0, ["1.0"] * (len(ids) - joint), {"type": "length"}))
    reader = ResponseReader(char_tokenizer(), hidden=(), stop=["dead"])
    (read,) = reader.read([response.ids])
    assert (read.text, read.tokens, read.stopped) == ("abcadead", 8, True)
    cut = response.cut(read.tokens)
    finished = FinishedResponse("g0000000001", 0, 0, [1], cut)
    names = {"payload_key": "p", "text_key": "t", "generator_id": "generator-0", "prompt_end": ""}
    completion = build_completion(finished, build_payload([1], cut), **names)
    assert completion.finish_reason == pb.FINISH_REASON_STOP
    assert (completion.response_tokens, completion.salvaged_tokens) == (8, min(joint, 8))
