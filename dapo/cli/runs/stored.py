"""`dapo checkpoints fetch`: a run whose folder was lost comes back from an object store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dapo.cli.errors import RUN_ERROR, fail, told
from dapo.cli.output import AsJson, note, print_json
from dapo.terminal import visible

if TYPE_CHECKING:
    from dapo.records.mirror.fetching import Progress

checkpoints = typer.Typer(no_args_is_help=True, help="Copies of checkpoints in an object store.")
_DAY_S = 86_400.0
_TOLD_SHARE = 0.1


@checkpoints.callback()
def main() -> None:
    pass


@checkpoints.command()
def fetch(
    url: Annotated[str, typer.Argument(help="checkpoint.mirror of its spec and its id, e.g. s3://bucket/dapo/RUN_ID.")],
    run_dir: Annotated[Path, typer.Argument(help="Folder to make, e.g. runs/RUN_ID below the service's directory.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fetched.")] = False,
    within_s: Annotated[float, typer.Option("--within", min=1, help="Seconds that it may take.")] = _DAY_S,
    as_json: AsJson = False,
) -> None:
    """Bring a run's newest whole checkpoint back from an object store, with what it takes to go on from there.

    Credentials are those of the environment. A fetch that was cut short goes on when it is called again.
    """
    from dapo.records.checkpoints import CheckpointError
    from dapo.records.identity import RunDirError
    from dapo.records.mirror.fetching import FetchTimeout, NothingToFetch, fetch, find_mirrored
    from dapo.records.mirror.store import ObjectStore, ObjectStoreError

    with told(ObjectStoreError, NothingToFetch, RunDirError):
        store = ObjectStore(url)
        found = find_mirrored(store)
        for one in found.damage:
            note(f"warning: left out, as it is not whole: {one}")
        if not dry_run:
            try:
                fetch(store, found, run_dir, within_s=within_s, progress=_told_at_times())
            except (CheckpointError, FetchTimeout) as error:
                fail(str(error), RUN_ERROR)
    if as_json:
        shown = {"step": found.step, "checkpoint": found.name, "size": found.size, "damage": found.damage}
        print_json({**shown, "run_dir": None if dry_run else str(run_dir.resolve())})
    elif dry_run:
        typer.echo(f"the checkpoint of step {found.step}, {found.size / 2**20:,.1f} MiB")
    else:
        typer.echo(visible(str(run_dir.resolve())))
        note(f"go on from step {found.step}: dapo train --resume {run_dir}, or dapo runs resume RUN at its service")


def _told_at_times() -> "Progress":
    """A note for each tenth."""
    next_share = _TOLD_SHARE

    def tell(done: int, size: int) -> None:
        nonlocal next_share
        share = done / max(1, size)
        if share >= next_share and share < 1:
            note(f"{share:.0%} of {size / 2**20:,.1f} MiB")
            next_share = share + _TOLD_SHARE

    return tell
