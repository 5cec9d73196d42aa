"""A run's folder with checkpoints, without a run."""

from pathlib import Path

from dapo.records.checkpoints import Manifest, directory_name, file_sizes, mark, write_manifest
from dapo.records.folder import RunFolder
from dapo.records.identity import RunIdentity, write_identity
from dapo.records.mirror.fetching import fetch, find_mirrored
from dapo.records.mirror.store import ObjectStore


class Folder:
    """Of a run, as its learner and its orchestrator leave it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = RunFolder(path)
        path.mkdir(parents=True)
        self.files.spec.write_text("model: {path: ./m}\ndata: {path: d.jsonl}\n")
        write_identity(path, RunIdentity("one", "2026-01-01T00:00:00.000+00:00", True, "first"))

    def save(self, step: int, epoch: int = 1, *, size: int = 100, keep: int = 2) -> str:
        """A checkpoint, and the records up to it. Its name."""
        root = self.files.checkpoints
        name = directory_name(step, epoch)
        (root / name / "hf").mkdir(parents=True)
        (root / name / "state.pt").write_bytes(bytes([step]) * size)
        (root / name / "hf" / "config.json").write_text(f'{{"step": {step}}}')
        (root / name / "empty").touch()
        write_manifest(root / name, Manifest(step, epoch, 0, 1, 0, "float32", file_sizes(root / name)))
        names = sorted((path.name for path in root.iterdir() if path.is_dir()), reverse=True)[:keep]
        mark(root, epoch, names)
        self.files.metrics.write_text("".join(f'{{"step": {one}}}\n' for one in range(1, step + 1)) + '{"st')
        return name


def bring_back(store: ObjectStore, run_dir: Path) -> None:
    fetch(store, find_mirrored(store), run_dir, within_s=60, progress=lambda done, size: None)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
