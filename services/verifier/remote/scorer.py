"""`remote`: a service scores batches of responses over HTTP.

    POST {"items": [{"prompt": …, "response": …, "gold": …}, …]}
    200  {"scores": [0.0 … 1.0, …]}  or  {"results": [{"score": …, "correct": …, "reason": …}, …]}

`correct` and `reason` may be left out; without `correct`, the threshold decides. One result for each item, in order.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from dapo.contracts.verdicts import UNAVAILABLE
from dapo.spec.tree.graders import RemoteGrader
from services.verifier.graders import Verdict, scored, wrong
from services.verifier.remote.client import BadReply, ServiceClient, Unavailable
from services.verifier.request import GradingRequest


class RemoteScorer:
    """Client of one scoring service. Raises GraderSetupError if its API key is missing."""

    def __init__(self, options: RemoteGrader) -> None:
        self._options = options
        self._endpoint = ServiceClient(options.url, options)

    async def close(self) -> None:
        await self._endpoint.close()

    async def grade(self, requests: Sequence[GradingRequest]) -> list[Verdict]:
        size = self._options.batch_size
        batches = [requests[at : at + size] for at in range(0, len(requests), size)]
        found = await asyncio.gather(*(self._grade_batch(batch) for batch in batches))
        return [verdict for verdicts in found for verdict in verdicts]

    async def _grade_batch(self, requests: Sequence[GradingRequest]) -> list[Verdict]:
        items = [{"prompt": one.prompt, "response": one.text, "gold": one.gold} for one in requests]
        try:
            results = _read_results(await self._endpoint.post({"items": items}), len(items))
        except Unavailable as error:
            return [wrong(UNAVAILABLE, str(error))] * len(items)
        except BadReply as error:
            return [wrong("bad_reply", str(error))] * len(items)
        return [self._verdict(result) for result in results]

    def _verdict(self, result: dict[str, Any]) -> Verdict:
        score: Any = result.get("score")
        correct, reason = result.get("correct"), result.get("reason") or ""
        if not is_score(score):
            return wrong("bad_reply", f"score {score!r:.80}, not a number in [0, 1]")
        if not isinstance(correct, bool | None) or not isinstance(reason, str):
            return wrong("bad_reply", f"correct {correct!r:.40} or reason {reason!r:.40} is of the wrong type")
        found = scored(float(score), self._options.threshold, reason)
        if correct is None or correct == found.correct:
            return found
        return found._replace(correct=correct, reason="passed" if correct else "below_threshold")


def is_score(value: Any) -> bool:
    """A finite number in [0, 1], and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _read_results(reply: Any, count: int) -> list[dict[str, Any]]:
    """Raises BadReply."""
    found = reply if isinstance(reply, dict) else {}
    scores = found.get("scores")
    results = [{"score": score} for score in scores] if isinstance(scores, list) else found.get("results")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise BadReply(f"neither scores nor results in {reply!r:.80}")
    if len(results) != count:
        raise BadReply(f"{len(results)} results for {count} items")
    return results
