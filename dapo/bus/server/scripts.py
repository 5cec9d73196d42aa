"""The Lua scripts: package data, each put behind one prelude and the tables of `ledger` and `keys`.

A script runs alone on the server, so whatever it does is one atomic step. Scripts that only move or free what is
stored carry the flag `allow-oom`, so that a full server can still be drained; scripts that bring new data do not,
and are then refused before their first write.

A connection that breaks leaves it unknown whether a script has run. One that may be repeated is sent again: it leaves
the same state, whether it runs once or twice. Any other is not, and its caller is told (BusUnavailable).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from dapo.bus import keys, ledger


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    repeatable: bool
    """Run twice with the same arguments it leaves the same state as once."""
    why: str
    when_full: bool = True
    """It runs even where the memory limit is reached."""


SCRIPTS = {
    script.name: script
    for script in (
        Script("small_write", True, "it carries commands of SMALL_WRITES only"),
        Script("fenced_write", True, "as small_write, it carries commands of SMALL_WRITES only"),
        Script("append", True, "the nonce of an entry that was appended is remembered"),
        Script("acquire_epoch", True, "the nonce is remembered with the epoch it was given"),
        Script("take_lease", True, "the nonce is remembered with the epoch it was given"),
        Script("claim", False, "it hands out entries, and others the second time"),
        Script("hand_back", True, "what is no longer in the caller's hands is left alone"),
        Script("issue_groups", True, "a group that exists is left alone", when_full=False),
        Script("write_completions", True, "the first of (group, index) wins, and it is the same", when_full=False),
        Script("write_grades", True, "the first of (group, index) wins, and it is the same"),
        Script("fail_group", True, "the nonce of a dead letter that was filed is remembered"),
        Script("refill", True, "the nonce of a completion that was withdrawn is remembered"),
        Script("settle_group", True, "the nonce of a decision is remembered with its outcome"),
        Script("close_groups", True, "it names the groups, and closed ones are left alone"),
        Script("cut_batch", True, "the same batch under its number is left alone"),
        Script("record_step", True, "a step that was recorded is left alone"),
        Script("commit_checkpoint", True, "marking a group and trimming to a number change nothing the second time"),
        Script("retire_groups", True, "only a group that is marked is retired, and that takes the mark"),
        Script("put_payloads", True, "a blob in its own place takes no more than before", when_full=False),
        Script("delete_keys", True, "what is gone is left alone"),
        Script("delete_payloads", True, "what is gone takes nothing"),
        Script("begin_at", True, "it puts whole values in the place of others"),
        Script("set_version", True, "it sets a value"),
        Script("unlist", True, "what is gone is left alone"),
        Script("beat_agent", True, "it puts whole values in the place of others"),
        Script("clear_agent", True, "it names the order by its number, and no other is cleared"),
        Script("leave_agent", True, "what is gone is left alone"),
        Script("place_worker", True, "the nonce is remembered with the number of the order"),
        Script("withdraw_worker", True, "it names the order by its number, and what is gone is left alone"),
    )
}
"""By name; each is a file lua/<name>.lua."""

SMALL_WRITES = frozenset({"SET", "HSET", "HSETNX", "HDEL", "PEXPIRE", "XGROUP"})
"""Commands that change nothing when run again with the same arguments. XGROUP CREATE then answers BUSYGROUP."""


def _table(name: str, entries: Iterable[tuple[str, str]]) -> str:
    body = ", ".join(f'["{key}"] = {value}' for key, value in entries)
    return f"local {name} = {{{body}}}\n"


def _tables() -> str:
    moves = [(f"{source}>{target}", "true") for source, targets in ledger.TRANSITIONS.items() for target in targets]
    return (
        _table("ALLOWED", sorted(moves))
        + _table("IS_OPEN", ((state, "true") for state in sorted(ledger.OPEN)))
        + _table("IS_DISCARDED", ((state, "true") for state in sorted(ledger.DISCARDED)))
        + f'local RUN_COMPLETE, RUNS, AGENTS = "{ledger.RUN_COMPLETE}", "{keys.RUNS}", "{keys.AGENTS}"\n'
        + _table("READER", ((stream, f'"{role}"') for stream, role in keys.READERS.items()))
    )


@cache
def sources() -> dict[str, str]:
    """Script name -> full text."""
    folder = resources.files("dapo.bus.server") / "lua"
    prelude = _tables() + (folder / "prelude.lua").read_text()
    texts = {}
    for name, script in SCRIPTS.items():
        shebang = "#!lua flags=allow-oom\n" if script.when_full else "#!lua\n"
        texts[name] = shebang + prelude + (folder / f"{name}.lua").read_text()
    return texts


@cache
def digest(name: str) -> str:
    """SHA-1 by which the server knows the script."""
    return hashlib.sha1(sources()[name].encode(), usedforsecurity=False).hexdigest()
