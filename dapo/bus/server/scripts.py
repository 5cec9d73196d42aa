"""The Lua scripts: package data, each put behind one prelude and the tables of `ledger` and `keys`.

A script runs alone on the server, so whatever it does is one atomic step. Scripts that only move or free what is
stored carry the flag `allow-oom`, so that a full server can still be drained; scripts that bring new data do not,
and are then refused before their first write.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import resources

from dapo.bus import keys, ledger

ALWAYS = frozenset(
    {"control", "claim", "write_grades", "fail_group", "settle_group", "close_groups", "cut_batch", "record_step"}
    | {"commit_checkpoint", "retire_groups", "set_version"}
)
"""Scripts that run even where the memory limit is reached."""
BOUNDED = frozenset({"issue_groups", "write_completions"})


def _table(name: str, entries: Iterable[tuple[str, str]]) -> str:
    body = ", ".join(f'["{key}"] = {value}' for key, value in entries)
    return f"local {name} = {{{body}}}\n"


def _tables() -> str:
    moves = [(f"{source}>{target}", "true") for source, targets in ledger.TRANSITIONS.items() for target in targets]
    return (
        _table("ALLOWED", sorted(moves))
        + _table("IS_OPEN", ((state, "true") for state in sorted(ledger.OPEN)))
        + _table("IS_DISCARDED", ((state, "true") for state in sorted(ledger.DISCARDED)))
        + _table("READER", ((stream, f'"{role}"') for stream, role in keys.READERS.items()))
    )


@cache
def sources() -> dict[str, str]:
    """Script name -> full text."""
    folder = resources.files("dapo.bus.server") / "lua"
    prelude = _tables() + (folder / "prelude.lua").read_text()
    texts = {}
    for name in sorted(ALWAYS | BOUNDED):
        shebang = "#!lua flags=allow-oom\n" if name in ALWAYS else "#!lua\n"
        texts[name] = shebang + prelude + (folder / f"{name}.lua").read_text()
    return texts


@cache
def digest(name: str) -> str:
    """SHA-1 by which the server knows the script."""
    return hashlib.sha1(sources()[name].encode(), usedforsecurity=False).hexdigest()
