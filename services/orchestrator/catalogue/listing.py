"""A list of runs, filtered and in pages."""

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dapo.records.identity import name_of
from dapo.v1 import run_pb2 as pb
from services.orchestrator.fleet.errors import BadField
from services.orchestrator.records.remarks import check_key

LIMIT, MOST = 100, 1_000
"""Runs of a page, where nobody says how many, and at most."""


class Page(NamedTuple):
    runs: list[pb.Run]
    next: str
    """Cursor of the page behind it; empty at the end."""


class Wanted(NamedTuple):
    """Which runs: of any of `states`, as RunState numbers them (all, where there is none), of a name (""; any), and
    with all of `labels`."""

    states: Collection[int] = ()
    name: str = ""
    newest_first: bool = False
    labels: Sequence[tuple[str, str | None]] = ()
    """Key and value; None: any."""

    def page(self, runs: Sequence[pb.Run], limit: int, cursor: str) -> Page:
        """`limit` runs behind the one that the cursor stands for. A run that comes or goes meanwhile shifts none.

        Raises BadField for a cursor that is none.
        """
        after = _position(cursor) if cursor else None
        found = sorted((run for run in runs if self._is_wanted(run)), key=_key, reverse=self.newest_first)
        if after is not None:
            found = [run for run in found if (_key(run) < after if self.newest_first else _key(run) > after)]
        shown = found[:limit]
        return Page(shown, _cursor(shown[-1]) if len(found) > limit else "")

    def _is_wanted(self, run: pb.Run) -> bool:
        return (
            (not self.states or run.state in self.states)
            and (not self.name or name_of(run.id) == self.name)
            and all(_has(run.labels, *label) for label in self.labels)
        )


def label_filter(texts: Iterable[str]) -> list[tuple[str, str | None]]:
    """Of `key` or `key=value` each, as Wanted takes them. Raises BadRemark."""
    found: list[tuple[str, str | None]] = []
    for text in texts:
        key, equals, value = text.partition("=")
        check_key("label", key)
        found.append((key, value if equals else None))
    return found


def _has(labels: Mapping[str, str], key: str, value: str | None) -> bool:
    return key in labels and value in (None, labels[key])


def _key(run: pb.Run) -> tuple[str, str]:
    return run.created_at, run.id


def _cursor(run: pb.Run) -> str:
    return base64.urlsafe_b64encode(json.dumps(_key(run)).encode()).decode()


def _position(cursor: str) -> tuple[str, str]:
    try:
        created_at, run_id = json.loads(base64.b64decode(cursor.encode(), b"-_", validate=True))
        return str(created_at), str(run_id)
    except (ValueError, TypeError, RecursionError):
        raise BadField("cursor", "is no cursor of a page of runs: give the `next` of the page before", cursor) from None
