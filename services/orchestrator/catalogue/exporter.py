"""Writes exports, each by a process of the learner's package: the service itself needs neither torch nor its memory."""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from dapo.environment import SERVICE_KEYS
from dapo.host.files import tail
from dapo.host.processes import child_environment, describe_exit, end_sessions, python_command, read_process
from dapo.host.storage import in_words
from dapo.records.checkpoints import CheckpointError, ExportDtype, Manifest, find_newest, find_step
from dapo.records.folder import RunFolder
from services.orchestrator.fleet.errors import BadField, RunConflict, RunNotFound, ServiceStopping, unusable
from services.orchestrator.records.exports import ADAPTER, Export, ExportState, Place, Said, exports
from services.orchestrator.records.turns import taking_turns

log = logging.getLogger(__name__)

_LONGEST_S = 3600.0
_MOST = 16
"""Exports that are written or wait for it."""
_NICENESS = 10
_FIRST_VICTIM = "1000"
"""oom_score_adj: where memory runs out the kernel ends an export before any process of a run."""
_LOCK_S = 2.0
"""A lock is looked at for a moment by whoever lists."""
_POLL_S = 0.02
_WORDS = 2000
"""Characters of what a process said."""


class CannotExport(RuntimeError):
    """This installation cannot; the message has the cure."""


class ExportRequest(NamedTuple):
    step: int | None = None
    """Of the checkpoint; None: the newest whole one."""
    dtype: str = ""
    """An ExportDtype; empty: that of the base model."""
    adapter: bool = False
    """The LoRA adapter alone, as it is."""


class _Chosen(NamedTuple):
    place: Place
    manifest: Manifest
    warning: str


class Exporter:
    """Of one service: one export is written at a time, in the order in which they were asked for.

    A process has an hour. It uses no GPU, has the lowest claim on processors and memory, and ends with the service.
    Restart: exports that were under way count as failed, and are begun anew when they are asked for again.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def ask(self, run_dir: Path, request: ExportRequest) -> Export:
        """Have an export written below the run's folder; returns at once, with that which there is of the same
        checkpoint and form unless it has failed.

        Raises BadField, RunConflict where there is no whole checkpoint, too many exports wait or the disk has no room,
        CannotExport without torch, RunNotFound for a run that is deleted meanwhile, ServiceStopping.
        """
        try:
            chosen = await asyncio.to_thread(_choose, run_dir, request)
            if isinstance(chosen, Export):
                return chosen
            async with taking_turns(run_dir):
                found = await asyncio.to_thread(chosen.place.read)
                if found.state is ExportState.FAILED:
                    await self._begin(chosen)
                    found = await asyncio.to_thread(chosen.place.read)
                return found
        except FileNotFoundError as error:
            raise RunNotFound(f"the run of {run_dir} was deleted meanwhile") from error
        except OSError as error:
            raise unusable("nothing is exported", error, run_dir) from error

    async def close(self) -> None:
        """End what is under way."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _begin(self, chosen: _Chosen) -> None:
        if find_spec("torch") is None:
            raise CannotExport(
                "an export needs torch, which is not installed where this service runs: pip install '.[learner]' "
                "there, or use dapo export where the run's folder and torch are "
                "(docker compose exec learner dapo export runs/RUN OUT)"
            )
        if self._closed:
            raise ServiceStopping("the service is shutting down: it exports nothing more")
        if len(self._tasks) >= _MOST:
            raise RunConflict(f"{_MOST} exports are written or wait already: ask again once some are done")
        place = chosen.place
        await asyncio.to_thread(_check_room, chosen)
        lock = await _lock(place)
        try:
            await asyncio.to_thread(place.say, Said(ExportState.QUEUED, warning=chosen.warning))
        except BaseException:
            os.close(lock)
            raise
        task = asyncio.create_task(self._export(chosen, lock), name=f"export {place.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _export(self, chosen: _Chosen, lock: int) -> None:
        place = chosen.place
        try:
            async with self._turn:
                await self._say(place, Said(ExportState.RUNNING, warning=chosen.warning))
                try:
                    said = await _write(chosen, lock)
                except OSError as error:
                    said = Said(ExportState.FAILED, in_words(error, place.directory))
                if said.state is ExportState.FAILED:
                    log.error("%s is not exported: %s", place.directory, said.problem)
                await self._say(place, said)
        finally:
            os.close(lock)

    async def _say(self, place: Place, said: Said) -> None:
        try:
            await asyncio.to_thread(place.say, said)
        except OSError as error:
            log.error("what became of %s cannot be written: %s", place.directory, in_words(error, place.directory))


def _choose(run_dir: Path, request: ExportRequest) -> _Chosen | Export:
    """What to export, or what there is of a checkpoint that is gone by now. Raises BadField, RunConflict, OSError."""
    if request.adapter and request.dtype:
        raise BadField("dtype", "an adapter is exported as it was trained: leave out dtype, or adapter", request.dtype)
    form = ADAPTER if request.adapter else request.dtype or ExportDtype.AS_BASE
    if form not in (*ExportDtype, ADAPTER):
        raise BadField("dtype", f"is none of {', '.join(ExportDtype)}", form)
    root = RunFolder(run_dir).checkpoints
    damage: list[str] = []
    try:
        if request.step is not None:
            checkpoint = find_step(root, request.step)
        else:
            newest, damage = find_newest(root)
            if newest is None:
                why = f"no whole checkpoint: {'; '.join(damage)}" if damage else "no checkpoint yet"
                raise RunConflict(f"the run has {why}. See checkpoint.every_steps")
            checkpoint = newest
    except CheckpointError as error:
        if request.step is None:
            raise RunConflict(str(error)) from error
        for one in exports(run_dir):
            if (one.step, one.form, one.state) == (request.step, form, ExportState.SUCCEEDED):
                return one
        raise BadField("step", str(error), request.step) from error
    directory, manifest = checkpoint
    if request.adapter and not (directory / ADAPTER).is_dir():
        raise BadField("adapter", "the run has no LoRA adapter, as lora.rank is not set. Leave it out")
    warning = f"the newest checkpoint is damaged, one before it was taken: {'; '.join(damage)}" if damage else ""
    return _Chosen(Place(run_dir, directory.name, form), manifest, warning)


def _check_room(chosen: _Chosen) -> None:
    """Raises RunConflict where the disk, which a run may be writing to, would be full. Makes the folder."""
    place, manifest = chosen.place, chosen.manifest
    place.directory.parent.mkdir(exist_ok=True)
    kept = "adapter/" if place.form == ADAPTER else "hf/"
    needed = sum(size for name, size in manifest.files.items() if name.startswith(kept))
    if place.form == ExportDtype.FLOAT32 and manifest.dtype != ExportDtype.FLOAT32:
        needed *= 2
    free = shutil.disk_usage(place.directory.parent).free
    if free < needed:
        raise RunConflict(
            f"the disk is too full: the export needs {needed / 2**20:,.1f} MiB at {place.directory.parent}, and "
            f"{free / 2**20:,.1f} MiB are free. Free some space"
        )


async def _lock(place: Place) -> int:
    """Raises RunConflict, OSError."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOCK_S):
            while True:
                if (descriptor := place.lock()) is not None:
                    return descriptor
                await asyncio.sleep(_POLL_S)
    raise RunConflict(f"{place.directory} is being written, by a process that does not end. Ask again")


async def _write(chosen: _Chosen, lock: int) -> Said:
    """What became of it. Raises OSError."""
    place = chosen.place
    form = ("--adapter",) if place.form == ADAPTER else ("--dtype", place.form)
    await asyncio.to_thread(place.clear)
    arguments = (str(place.run_dir), str(place.scratch), "--step", str(chosen.manifest.step), *form)
    try:
        problem = await _run(place, lock, arguments)
        if problem:
            return Said(ExportState.FAILED, problem)
        warnings = [chosen.warning, *_lines(place.log, "warning: ")]
        done = Said(ExportState.SUCCEEDED, warning="\n".join(filter(None, warnings)))
        # Before the folder has its name: that alone says that it is whole.
        await asyncio.to_thread(place.say, done._replace(state=ExportState.RUNNING))
        await asyncio.to_thread(place.complete)
        await asyncio.to_thread(place.log.unlink, missing_ok=True)
        return done
    finally:
        await asyncio.to_thread(place.clear)


async def _run(place: Place, lock: int, arguments: Sequence[str]) -> str:
    """Why the process failed; empty where it did not. It is gone when this returns or raises. Raises OSError."""
    variables = {"PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment = child_environment(variables, without=SERVICE_KEYS)
    with place.log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *python_command("services.learner.export", *arguments, "--die-with-parent"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            pass_fds=[lock],
        )
    try:
        _lower(process.pid)
        async with asyncio.timeout(_LONGEST_S):
            code = await process.wait()
    except TimeoutError:
        return f"it has taken more than {_LONGEST_S / 60:g} minutes, and was ended"
    finally:
        if process.returncode is None:
            entry = read_process(process.pid)
            await end_sessions({process.pid: entry.started if entry else 0})
            await process.wait()
    if code == 0:
        return ""
    errors = _lines(place.log, "error: ")
    return errors[-1] if errors else f"the process {describe_exit(code)}\n{tail(place.log)[-_WORDS:]}".strip()


def _lower(pid: int) -> None:
    """Less of processors and memory than a run's processes get, as far as the system lets that be said."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_FIRST_VICTIM)


def _lines(path: Path, mark: str) -> list[str]:
    """The last lines of a log that begin with a mark, without it."""
    return [line.removeprefix(mark)[:_WORDS] for line in tail(path).splitlines() if line.startswith(mark)]
