"""What a finished response becomes: its payload and its completion."""

import pytest

from services.generator.engine.responses import EngineError, Span, StreamedResponse
from services.generator.writer import FinishedResponse, build_completion, build_payload


@pytest.mark.parametrize(("token", "version"), [(2**31, "1.0"), (1, "base"), (1, "None")])
def test_what_a_payload_cannot_hold_is_refused(token: int, version: str) -> None:
    response = StreamedResponse("r", [token], [-0.5], [Span(version, 0, 1)], "length")
    with pytest.raises(EngineError, match="request r"):
        build_payload([1], response)


def test_a_completion_repeats_the_spans_of_its_payload() -> None:
    """The payload is deleted long before anybody asks which weights sampled the response."""
    spans = [Span("1.3", 0, 2), Span("1.4", 2, 3)]
    finished = FinishedResponse("g0000000001", 0, 0, [7], StreamedResponse("r", [1, 2, 3], [-0.5] * 3, spans, "stop"))
    payload = build_payload(finished.prompt, finished.response)
    names = {"payload_key": "p", "text_key": "t", "generator_id": "generator-0", "prompt_end": ""}
    completion = build_completion(finished, payload, **names)
    assert [(span.version.step, span.start, span.end) for span in completion.spans] == [(3, 0, 2), (4, 2, 3)]
    assert (completion.version_min, completion.version_max) == (3, 4)
