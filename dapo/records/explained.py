"""What is known of a group, in sentences for people. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from dapo.algo.progress import seconds
from dapo.bus.keys import READERS
from dapo.bus.ledger import RUN_COMPLETE
from dapo.records.explanations import GroupExplanation, GroupHolder, GroupResponse, Happening

_OPEN = frozenset({"issued", "generated", "scored", "kept", "batched"})


def summary(group: GroupExplanation) -> list[str]:
    """Where the group stands and why, then who has what it waits for, then what was lost on the way."""
    return [_standing(group), *_holding(group), *_losses(group)]


def _standing(group: GroupExplanation) -> str:
    size, correct = group.group_size, _correct(group)
    match group.state:
        case "issued":
            return f"It waits for {_count(len(group.missing), 'response')} of {size}; {_graded(group)} graded."
        case "generated":
            return f"It waits for verdicts: {_graded(group)} of {size} responses graded."
        case "scored":
            return f"All {size} responses are graded ({correct}); the orchestrator has not decided yet."
        case "kept":
            return f"It was kept for training ({correct}) and waits for a batch."
        case "batched":
            return (
                f"It was kept ({correct}) and is in batch {group.batch}, which waits for training: step {group.step}."
            )
        case "trained":
            return f"It was kept ({correct}) and trained on in step {group.step} (batch {group.batch})."
        case "filtered":
            return f"Dynamic sampling filtered it: {group.reason} ({correct}), so that every advantage would be 0."
        case "evaluated":
            return f"It belongs to an evaluation of {group.evaluation!r}: {correct}."
        case "surplus" if group.reason == RUN_COMPLETE:
            return "It is surplus: the run was complete before it was used."
        case "failed":
            return "It failed" + (f": {group.failure.explanation}." if group.failure else ".")
    return f"It is {group.state}" + (f": {group.reason}." if group.reason else ".")


def _correct(group: GroupExplanation) -> str:
    correct = sum(one.verdict is not None and one.verdict.correct for one in group.responses)
    return f"{correct} of {group.group_size} correct"


def _graded(group: GroupExplanation) -> int:
    return sum(one.verdict is not None for one in group.responses)


def _holding(group: GroupExplanation) -> Iterator[str]:
    """One sentence for each worker and stream."""
    if group.state not in _OPEN:
        return
    by_worker: dict[tuple[str, str], list[GroupHolder]] = {}
    for holder in group.holders:
        by_worker.setdefault((holder.stream, holder.worker), []).append(holder)
    for (stream, worker), held in by_worker.items():
        role, longest = READERS[stream], max(one.held_s for one in held)
        what = "its prompt" if role == "generator" else "it"
        if role == "verifier":
            indices = sorted(one.response for one in held if one.response is not None)
            what = f"response{'s'[: len(indices) > 1]} {', '.join(f'#{index}' for index in indices)}"
        if not worker:
            yield f"No {role} has taken {what} yet, for {seconds(longest)}."
        elif all(one.alive for one in held):
            yield f"{worker} has had {what} for {seconds(longest)} and is alive."
        else:
            yield f"{worker}, which has had {what} for {seconds(longest)}, is dead: another {role} takes over."


def _losses(group: GroupExplanation) -> Iterator[str]:
    if group.failure is not None:
        if group.state != "failed":
            yield f"A dead letter names it: {group.failure.explanation}."
        if group.failure.detail:
            yield f"The letter says: {group.failure.detail}"
    if group.requeued_as:
        yield f"Its prompt was issued once more, as {group.requeued_as}."
    if group.requeued_from:
        yield f"It issues the prompt of {group.requeued_from} once more, which failed."
    counts = Counter(one.what for one in group.happenings)
    if group.deliveries > 1:
        causes = {"handed_back": "handed back", "claimed": "taken over from the dead", "refilled": "for lost responses"}
        told = ", ".join(f"{counts[what]} {words}" for what, words in causes.items() if counts[what])
        yield f"Its prompt was delivered {group.deliveries} times" + (f" ({told})." if told else ".")
    elif counts["claimed"]:
        yield f"{_count(counts['claimed'], 'time')} a worker that had some of it died and another took over."
    retried = [one for one in group.responses if one.retry > 1]
    if retried:
        indices = ", ".join(f"#{one.index}" for one in retried)
        yield f"Not of a delivery's first try: {indices}."
    salvaged = [one for one in group.responses if one.salvaged]
    if salvaged:
        told = ", ".join(f"#{one.index} ({one.salvaged})" for one in salvaged)
        yield f"Cut short, and continued from the tokens that they had: {told}."


def what_happened(happening: Happening) -> str:
    """As a clause."""
    worker = happening.worker
    match happening.what:
        case "claimed":
            return f"{happening.successor} took over from {worker}, which had died"
        case "handed_back":
            return f"{worker} handed the prompt back" + (": its engine was lost" if happening.engine_lost else "")
        case "refilled":
            return f"response #{happening.index} of {worker} was lost and is generated again"
    return happening.what


def steps_of(response: GroupResponse) -> str:
    """The weights that sampled it: `3`, or `3 (0-17), 4 (17-40)` with the tokens of each."""
    if len(response.versions) > 1:
        return ", ".join(f"{span.step} ({span.start}-{span.end})" for span in response.versions)
    if response.version_min != response.version_max:
        return f"{response.version_min}-{response.version_max}"
    return str(response.version_min)


def elapsed(happenings: Sequence[Happening]) -> list[float]:
    """Seconds from the first to each."""
    times = [datetime.fromisoformat(one.at) for one in happenings]
    return [(time - times[0]).total_seconds() for time in times]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
