"""The folder that a new run gets."""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from dapo.records.identity import RunDirError, RunIdentity, new_run_id
from dapo.spec.run import RunSpec
from services.orchestrator.fleet.errors import FolderTaken, unusable
from services.orchestrator.fleet.past import folder_below
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.records.remarks import Remarks


def make_folder(
    state_dir: Path, run_dir: str, spec: RunSpec, remarks: Remarks, *, listed: bool, shared: bool
) -> Recorder:
    """Of a run that begins now, in `run_dir` below the service's directory; "": runs/<id> there. `listed`: services go
    on with it. `shared` as in FolderLock. Raises BadField, FolderTaken, StorageRefused."""
    now = datetime.now(UTC)
    run_id = new_run_id(spec.name, now)
    asked = run_dir or f"runs/{run_id}"
    try:
        identity = RunIdentity(run_id, now.isoformat(timespec="milliseconds"), listed, secrets.token_hex(8))
        return Recorder.create(folder_below(state_dir, asked), spec, identity, remarks=remarks, shared=shared)
    except (RunDirError, OSError) as error:
        what = f"run_dir {state_dir / asked}" if run_dir else "the run is not made"
        if isinstance(error, RunDirError):
            raise FolderTaken(f"{what}: {error}") from error
        raise unusable(what, error, state_dir / asked) from error
