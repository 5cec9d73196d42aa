"""The files of a run's folder, by name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run's records lie. Nothing here says that a file is there."""

    path: Path

    @property
    def spec(self) -> Path:
        """The RunSpec with its defaults, written first: a folder that has it holds a run."""
        return self.path / "spec.yaml"

    @property
    def next_spec(self) -> Path:
        """With which a run goes on that waits for room; then it is `spec`."""
        return self.path / "spec.next.yaml"

    @property
    def identity(self) -> Path:
        """The run's id and when it was created."""
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        """Locked by whoever works in the folder (dapo/records/identity.py); never replaced, unlike `identity`."""
        return self.path / ".lock"

    @property
    def remarks(self) -> Path:
        """What people say of the run: labels, notes, priority; only where they say something."""
        return self.path / "remarks.json"

    @property
    def turns(self) -> Path:
        """Locked for a moment by whoever changes what the run's lease does not cover; never replaced."""
        return self.path / ".turns"

    @property
    def provenance(self) -> Path:
        """Where the run came from: versions, commit, machine, hashes."""
        return self.path / "provenance.json"

    @property
    def metrics(self) -> Path:
        """One line a step (names: dapo/telemetry/metrics.py)."""
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """One line for each evaluation of one set (dapo/records/evaluations.py)."""
        return self.path / "evaluations.jsonl"

    @property
    def samples(self) -> Path:
        """Groups of training with their verdicts, one a line (dapo/records/samples.py)."""
        return self.path / "samples.jsonl"

    @property
    def rotated_samples(self) -> Path:
        """Where the groups go that made `samples` too long."""
        return self.path / "samples.1.jsonl"

    @property
    def evaluation_samples(self) -> Path:
        """A folder for each evaluation set, and in it a file of samples for each step."""
        return self.path / "evaluations"

    @property
    def groups(self) -> Path:
        """What is known of its groups, written at the end (dapo/records/group_archive.py)."""
        return self.path / "groups.pb.gz"

    @property
    def dead_letters(self) -> Path:
        """What was taken out of circulation, one a line, written at the end (dapo/records/group_archive.py)."""
        return self.path / "dead_letters.jsonl"

    @property
    def service(self) -> Path:
        """Where the run service of a `dapo train` is asked, while it goes on (dapo/cli/embedded.py)."""
        return self.path / "service.json"

    @property
    def events(self) -> Path:
        """One line an event, as watchers are told it, under the id of the run's stream in Redis."""
        return self.path / "events.jsonl"

    @property
    def summary(self) -> Path:
        """How the run ended."""
        return self.path / "summary.json"

    @property
    def curves(self) -> Path:
        """The picture of `metrics` (dapo/records/curves.py)."""
        return self.path / "curves.png"

    @property
    def tracking(self) -> Path:
        """How far each place of `tracking` was told of the run (services/orchestrator/tracking)."""
        return self.path / "tracking"

    @property
    def checkpoints(self) -> Path:
        """The learner's checkpoints (services/learner/checkpoint.py)."""
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        """Checkpoints as Hugging Face folders, made by a run service (services/orchestrator/records/exports.py)."""
        return self.path / "exports"

    @property
    def redis(self) -> Path:
        """Data of the run's own Valkey, if it has one; goes when the run has succeeded."""
        return self.path / "redis"

    @property
    def logs(self) -> Path:
        """Logs of the run's processes."""
        return self.path / "logs"
