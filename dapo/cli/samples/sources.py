"""Where `dapo runs samples` finds groups: in a run's folder, or at its service page by page, the newest first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from dapo.cli.errors import fail
from dapo.cli.runs.where import find_run, is_folder
from dapo.records.samples import (
    Group,
    Sample,
    SampleFile,
    SampleFilter,
    UnreadableLine,
    evaluation_files,
    evaluation_sets,
    last_steps,
    newest,
    read_groups,
    training_files,
)

if TYPE_CHECKING:
    from dapo.client import RunClient

_PAGE = 200
_VERDICTS: Mapping[bool | None, Literal["", "correct", "wrong"]] = {None: "", True: "correct", False: "wrong"}


class Source(Protocol):
    name: str
    """Of the run, as a person gave it."""
    unreadable: list[UnreadableLine]
    """Lines that are no sample, found so far."""

    def recent(self, set_name: str | None, wanted: SampleFilter, last: int | None, limit: int) -> list[Group]:
        """The newest `limit` wanted groups, newest last: of training, or of an evaluation set.

        Of a set they come from its last evaluation unless `wanted.steps` or `last`, a number of steps, says otherwise.
        Leaves with a message where there is no such set.
        """
        ...

    def evaluated(self, set_name: str | None, prompt: str, last: int | None) -> Iterator[Group]:
        """Groups of a set's evaluations, or of its last ones, oldest first; None: of the only set. Leaves with a
        message where that is none or not the only one."""
        ...


class FolderSource:
    """The files of a run's folder. Methods raise OSError."""

    def __init__(self, run_dir: Path) -> None:
        self.name = str(run_dir)
        self.unreadable: list[UnreadableLine] = []
        self._dir = run_dir

    def recent(self, set_name: str | None, wanted: SampleFilter, last: int | None, limit: int) -> list[Group]:
        if set_name is None:
            files = self._training_files()
            if last is not None:
                wanted = wanted._replace(steps=last_steps(read_groups(files, []), last))
        else:
            files = self._evaluation_files(set_name)
            steps = wanted.steps
            files = files[-(last or 1) :] if steps is None else [file for file in files if file.step in steps]
        return newest(read_groups(files, self.unreadable), wanted, limit)

    def evaluated(self, set_name: str | None, prompt: str, last: int | None) -> Iterator[Group]:
        files = self._evaluation_files(set_name or _only_set(evaluation_sets(self._dir), self.name))
        wanted = SampleFilter(prompt=prompt)
        found = read_groups(files if last is None else files[-last:], self.unreadable)
        return (group for group in found if wanted.group(group))

    def _training_files(self) -> list[SampleFile]:
        files = training_files(self._dir)
        if not files:
            sets = evaluation_sets(self._dir)
            elsewhere = f". It has evaluations: give --set {' or --set '.join(sets)}" if sets else ""
            fail(
                f"{self.name} has no samples.jsonl: no group was scored yet, or metrics.sample_groups_per_step in its "
                f"spec.yaml is 0 (default 4){elsewhere}"
            )
        return files

    def _evaluation_files(self, set_name: str) -> list[SampleFile]:
        _require_set(evaluation_sets(self._dir), set_name, self.name)
        return evaluation_files(self._dir, set_name)


class ServiceSource:
    """What the run's service tells. Methods raise ServiceError."""

    def __init__(self, client: "RunClient", run_id: str) -> None:
        self.name = f"run {run_id}"
        self.unreadable: list[UnreadableLine] = []
        """The service passes over them."""
        self._client = client
        self._run_id = run_id

    def recent(self, set_name: str | None, wanted: SampleFilter, last: int | None, limit: int) -> list[Group]:
        if set_name is not None:
            _require_set(self._sets(), set_name, self.name)
            last = last or (1 if wanted.steps is None else None)
        found: list[Group] = []
        page = _PAGE if _is_filtered_here(wanted, last) else min(limit, _PAGE)
        for group in self._newest_first(set_name or "", wanted, last, page):
            if wanted.group(group) and wanted.responses(group.sample):
                found.append(group)
            if len(found) == limit:
                break
        return found[::-1]

    def evaluated(self, set_name: str | None, prompt: str, last: int | None) -> Iterator[Group]:
        sets = self._sets()
        name = set_name or _only_set(sets, self.name)
        _require_set(sets, name, self.name)
        wanted = SampleFilter(prompt=prompt)
        found = [group for group in self._newest_first(name, wanted, last) if wanted.group(group)]
        return iter(found[::-1])

    def _sets(self) -> list[str]:
        return sorted({one["set"] for one in self._client.evaluations(self._run_id)})

    def _newest_first(
        self, set_name: str, wanted: SampleFilter, last: int | None, limit: int = _PAGE
    ) -> Iterator[Group]:
        """Of the `last` newest steps, where that is given, `limit` a page. What the service does not filter is among
        them."""
        (step,) = wanted.steps if wanted.steps is not None and len(wanted.steps) == 1 else (None,)
        # With `last` the service may leave out nothing: which steps are the newest does not hang on verdicts.
        prompt, verdict = (wanted.prompt, _VERDICTS[wanted.correct]) if last is None else ("", _VERDICTS[None])
        steps: set[int] = set()
        cursor = ""
        while True:
            page = self._client.samples(
                self._run_id, set_name, step=step, verdict=verdict, prompt=prompt, limit=limit, cursor=cursor
            )
            for one in page["samples"]:
                sample = Sample.model_validate(one)
                steps.add(sample.step)
                if last is not None and len(steps) > last:
                    return
                yield Group(sample.step, sample)
            if not (cursor := page["cursor"]):
                return


def _is_filtered_here(wanted: SampleFilter, last: int | None) -> bool:
    """Of what a service sends, not all is wanted."""
    beside_last = last is not None and (wanted.correct is not None or bool(wanted.prompt))
    return wanted.truncated or wanted.high_variance or beside_last


@contextmanager
def open_source(run: str, url: str | None) -> Iterator[Source]:
    """Of the folder of a run, where `run` is one, or of the run with that id at its service. Leaves with a message
    where there is neither."""
    if is_folder(run):
        yield FolderSource(Path(run))
        return
    place = find_run(run, url)
    with place.client() as client:
        yield ServiceSource(client, place.run_id)


def _require_set(sets: list[str], set_name: str, run: str) -> None:
    if set_name not in sets:
        there = f"has {', '.join(sets)}" if sets else "has no evaluation yet"
        fail(f"--set {set_name}: {run} {there}")


def _only_set(sets: list[str], run: str) -> str:
    if len(sets) != 1:
        there = f"has several sets: give --set {' or --set '.join(sets)}" if sets else "has no evaluation yet"
        fail(f"--compare: {run} {there}")
    return sets[0]
