"""What an object store has of a run's checkpoints, and what of it counts. Pure.

Below URL/RUN_ID, where URL is `checkpoint.mirror` of the spec:

    step-000020.e3/checkpoint/…    the files of the checkpoint of that name, its manifest too
    step-000020.e3/run/TOKEN/…     the run's records of that moment, by their names in its folder; a copy has its token
    step-000020.e3/inventory.json  size and SHA-256 of each of them; it comes last and goes first

A checkpoint whose inventory is missing, or lacks an object, does not count. Of those that count the newest is that of
the highest epoch, and there of the highest step: what an older learner wrote at a later step was trained again.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from dapo.records.checkpoints import CheckpointError, step_and_epoch

INVENTORY = "inventory.json"
CHECKPOINT, RECORDS = "checkpoint/", "run/"
"""What the paths of an inventory begin with."""
_FORMAT = 1


class BadInventory(ValueError):
    """An inventory cannot be read; the message says why."""


class Entry(NamedTuple):
    size: int
    """Bytes."""
    sha256: str


Inventory = Mapping[str, Entry]
"""By path below the checkpoint."""


def write_inventory(inventory: Inventory) -> bytes:
    files = {path: entry._asdict() for path, entry in sorted(inventory.items())}
    return json.dumps({"format": _FORMAT, "files": files}, indent=1).encode()


def parse_inventory(text: bytes) -> Inventory:
    """Inverse of `write_inventory`. No path of it leads out of a folder. Raises BadInventory."""
    try:
        found = json.loads(text)
        if found["format"] != _FORMAT:
            raise BadInventory(f"it is of format {found['format']}, this release reads {_FORMAT}")
        entries = {str(path): Entry(int(one["size"]), str(one["sha256"])) for path, one in found["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise error if isinstance(error, BadInventory) else BadInventory(f"it is no inventory: {error!r}") from error
    for path in entries:
        parts = PurePosixPath(path).parts
        if not path.startswith((CHECKPOINT, RECORDS)) or path != "/".join(parts) or ".." in parts or "\0" in path:
            raise BadInventory(f"{path!r} is no path of a checkpoint")
    return entries


def names_in(objects: Iterable[str]) -> list[str]:
    """Of the checkpoints of which anything is there, the newest first."""
    found = {name for one in objects if "/" in one and is_name(name := one.partition("/")[0])}
    return sorted(found, key=age, reverse=True)


def is_name(name: str) -> bool:
    try:
        step_and_epoch(name)
    except CheckpointError:
        return False
    return True


def age(name: str) -> tuple[int, int]:
    """Greater for newer ones."""
    step, epoch = step_and_epoch(name)
    return epoch, step


def lacking(name: str, inventory: Inventory, sizes: Mapping[str, int]) -> list[str]:
    """Paths that are not there in their size; `sizes`: bytes of each object of the run."""
    return [path for path, entry in inventory.items() if sizes.get(f"{name}/{path}") != entry.size]


def due(marked: Iterable[str], recorded: int) -> str | None:
    """Which checkpoint is to be in the store: of those that count in the run's folder, the newest first, the first one
    up to whose step the run has its records."""
    return next((name for name in marked if step_and_epoch(name)[0] <= recorded), None)


def superfluous(names: Collection[str], whole: Collection[str], latest: str, keep: int) -> list[str]:
    """What may go now that `latest` is whole: of the older checkpoints all but the newest `keep` − 1 that are whole.
    Newer ones are another leader's, and stay."""
    older = sorted((name for name in names if age(name) < age(latest)), key=age, reverse=True)
    kept = [name for name in older if name in whole][: keep - 1]
    return [name for name in older if name not in kept]
