"""The ledger: which states a group passes through. Pure; the Lua scripts are given this very table.

Invariant: each issued group is in exactly one state, so the counts over the states always add up to the groups issued.

    issued ⇄ generated → scored → kept → batched → trained
       └────────┴── failed │        │
       └────────┴──────────┴────────┴── surplus, stale
                           └── filtered; evaluated, of a group that is not for training

A generated group is issued again when a response of it was lost before it was graded.
"""

from collections.abc import Mapping
from enum import StrEnum


class GroupState(StrEnum):
    ISSUED = "issued"
    GENERATED = "generated"
    SCORED = "scored"
    KEPT = "kept"
    BATCHED = "batched"
    TRAINED = "trained"
    FILTERED = "filtered"
    EVALUATED = "evaluated"
    SURPLUS = "surplus"
    STALE = "stale"
    FAILED = "failed"


_DROPPED = frozenset({GroupState.SURPLUS, GroupState.STALE})

TRANSITIONS: dict[GroupState, frozenset[GroupState]] = {
    GroupState.ISSUED: _DROPPED | {GroupState.GENERATED, GroupState.FAILED},
    GroupState.GENERATED: _DROPPED | {GroupState.SCORED, GroupState.FAILED, GroupState.ISSUED},
    GroupState.SCORED: _DROPPED | {GroupState.KEPT, GroupState.FILTERED, GroupState.EVALUATED},
    GroupState.KEPT: _DROPPED | {GroupState.BATCHED},
    GroupState.BATCHED: frozenset({GroupState.TRAINED}),
    GroupState.TRAINED: frozenset(),
    GroupState.FILTERED: frozenset(),
    GroupState.EVALUATED: frozenset(),
    GroupState.SURPLUS: frozenset(),
    GroupState.STALE: frozenset(),
    GroupState.FAILED: frozenset(),
}

RUN_COMPLETE = "run complete"
"""Reason of a surplus that only the run's end has made one: a run that goes on beyond it issues the group again."""

OPEN = frozenset({GroupState.ISSUED, GroupState.GENERATED, GroupState.SCORED, GroupState.KEPT})
"""States of groups that somebody still works on or waits with; a drain turns them into surplus."""

DISCARDED = frozenset(
    {GroupState.FILTERED, GroupState.EVALUATED, GroupState.SURPLUS, GroupState.STALE, GroupState.FAILED}
)
"""Terminal without having been trained on: their payloads are deleted at once."""

FINAL = DISCARDED | {GroupState.TRAINED}
"""States that no group leaves."""

SETTLED = frozenset({GroupState.KEPT, GroupState.FILTERED, GroupState.EVALUATED, GroupState.SURPLUS, GroupState.STALE})
"""What the orchestrator may decide about a scored group."""


def counts(stored: Mapping[bytes, bytes]) -> dict[str, int]:
    """State -> groups in it, for every state, of the ledger as it is stored."""
    return {state.value: int(stored.get(state.encode(), 0)) for state in GroupState}
