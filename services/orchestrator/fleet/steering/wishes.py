"""What one instance of a service has another do with a run that the other leads."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dapo.bus.index import RunIndex
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.fleet.errors import RunConflict, RunNotFound
from services.orchestrator.runs.questions import GroupNotFound, NoAnswer, answering

_TAKEN_S = 15.0
"""How long a wish waits for a leader: also for one that takes the run over."""
_CARRIED_OUT_S = 60.0
_POLL_S = 0.1
_REFUSALS = {error.__name__: error for error in (RunConflict, RunNotFound, GroupNotFound, NotRequeued, NoAnswer)}
"""What a leader may say instead of doing it; whoever asked raises the same."""

Arguments = Mapping[str, Any]


class Wishes:
    """Both ends: `have` of whoever asks, `carry_out` of the leader, which finds the wish as it looks after its runs.

    Promises: a wish is carried out once or not at all, and whoever asked is told which, or that it is not known.
    Restart: a wish that nobody has taken is taken back by whoever asked; where that has died, a leader that finds it
    after its time, by the server's clock, drops it. One that died with its leader is not repeated.
    """

    def __init__(self, index: RunIndex) -> None:
        self._index = index

    async def have(self, run_id: str, what: str, arguments: Arguments) -> None:
        """Return once the run's leader has done it. Raises what that says instead, and NoAnswer where it says nothing:
        either nobody has taken it up, or what became of it is not known."""
        wish_id = secrets.token_hex(8)
        async with answering():
            until_ms = await self._index.now_ms() + round(1000 * _TAKEN_S)
            await self._index.wish(run_id, wish_id, json.dumps({"what": what, "until_ms": until_ms, **arguments}))
        answer = await self._answer(run_id, wish_id, _TAKEN_S)
        if answer is None:
            async with answering():
                nobody_has_it = await self._index.take(run_id, wish_id)
            if nobody_has_it:
                raise NoAnswer(f"the leader of run {run_id} has not taken it up in {_TAKEN_S:g} s: ask again later")
            answer = await self._answer(run_id, wish_id, _CARRIED_OUT_S)
        if answer is None:
            raise NoAnswer(
                f"the leader of run {run_id} has begun with it, but has not said in {_CARRIED_OUT_S:g} s what became of"
                " it: look at the run"
            )
        if refusal := answer["refusal"]:
            raise _REFUSALS[refusal](answer["message"])

    async def carry_out(
        self, run_id: str, wish_id: str, text: str, do: Callable[[str, Arguments], Awaitable[None]]
    ) -> None:
        """Raises BusError."""
        if not await self._index.take(run_id, wish_id):
            return  # somebody else does, or it was taken back
        arguments = json.loads(text)
        refusal, message = "", ""
        try:
            if await self._index.now_ms() > arguments.pop("until_ms", 0):
                raise NoAnswer(f"the leader of run {run_id} was asked too long ago: it has not done it, ask again")
            await do(arguments.pop("what"), arguments)
        except tuple(_REFUSALS.values()) as error:
            refusal, message = type(error).__name__, str(error)
        await self._index.answer(run_id, wish_id, json.dumps({"refusal": refusal, "message": message}))

    async def _answer(self, run_id: str, wish_id: str, within_s: float) -> dict[str, str] | None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            async with answering():
                text = await self._index.read_answer(run_id, wish_id)
            if text is not None:
                answer: dict[str, str] = json.loads(text)
                return answer
            await asyncio.sleep(_POLL_S)
        return None
