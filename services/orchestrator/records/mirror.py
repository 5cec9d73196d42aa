"""A run's checkpoints are copied to an object store, beside everything else (`checkpoint.mirror`)."""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from dapo.bus import BusError, Fenced
from dapo.contracts.events import Alert
from dapo.host.storage import in_words
from dapo.records.checkpoints import CheckpointError, list_marked, step_and_epoch
from dapo.records.folder import RunFolder
from dapo.records.mirror.copying import CheckpointCopy, CheckpointGone, delete_older, sweep
from dapo.records.mirror.inventory import due
from dapo.records.mirror.store import ObjectStore, ObjectStoreError
from dapo.spec.run import RunSpec
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.records.samples import Secure

log = logging.getLogger(__name__)

CAUSE = "mirror"
_LOOK_S = 2.0
_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 300.0
_LAST_TRIES = 3
"""Once the run has ended."""
_TROUBLES = (ObjectStoreError, CheckpointError, OSError)

T = TypeVar("T")


class Watchers(Protocol):
    """Of the run, as services/orchestrator/runs/events.py has them."""

    async def tell(self, event: Alert) -> bool: ...


class Mirror:
    """Looks for the newest checkpoint that counts, and has one thread at a time copy it.

    Promises: no store slows the run or ends it, whatever it does; the run's end waits for it for
    `checkpoint.mirror_wait_s` at most. Where a copy fails it is tried again, after pauses that grow to five minutes:
    that is told once, and once more when it goes on. A checkpoint that newer ones have replaced is left out. Only who
    leads the run begins a copy or deletes older ones; without a URL it does nothing.

    Restart: what is in the store says what is to be done. A copy that was cut short is begun anew.
    """

    def __init__(self, spec: RunSpec, recorder: Recorder, events: Watchers) -> None:
        self._checkpoint = spec.checkpoint
        self._recorder, self._events = recorder, events
        self._folder = RunFolder(recorder.run_dir).checkpoints
        self._store: ObjectStore | None = None
        self._copy: CheckpointCopy | None = None
        self._copied = ""
        """Name of the newest one that is whole there."""
        self._pruned = ""
        """Behind which older ones were deleted."""
        self._why = ""
        self._ending = asyncio.Event()
        self._hurries = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, secure: Secure) -> None:
        """The run's records are where it goes on. `secure` is awaited before the store is changed."""
        if self._checkpoint.mirror is not None:
            self._task = asyncio.create_task(self._work(secure))
            self._task.add_done_callback(_report)

    @property
    def step(self) -> int | None:
        """Of the newest checkpoint that is whole there; None before the first."""
        return step_and_epoch(self._copied)[0] if self._copied else None

    def hurry(self) -> None:
        """The run is to end at once, or goes on under another service, which copies what is missing: `end` does not
        wait, or no longer."""
        self._hurries = True
        self.abandon()

    async def end(self) -> None:
        """Nothing more is trained here. The run's watchers can still be told."""
        if self._task is None:
            return
        self._ending.set()
        await asyncio.wait({self._task}, timeout=self._checkpoint.mirror_wait_s)
        self.abandon()
        # A process that ends now leaves the copy's thread no time for it.
        await asyncio.to_thread(sweep, self._recorder.run_dir)
        if self._hurries:
            return
        try:
            name = await asyncio.to_thread(self._due)
        except _TROUBLES as error:
            name, self._why = "the newest checkpoint", in_words(error)
        if name is not None and name != self._copied:
            why = self._why or f"it was not done within checkpoint.mirror_wait_s = {self._checkpoint.mirror_wait_s:g} s"
            message = f"checkpoint.mirror lacks {name}: {why}. It is copied if the run goes on"
            await self._events.tell(Alert(cause=CAUSE, message=message))

    def abandon(self) -> None:
        """Nothing more is copied: the end was told, or others go on with the run."""
        if self._task is not None:
            self._task.cancel()
        if self._copy is not None:
            self._copy.leave()

    async def _work(self, secure: Secure) -> None:
        pause_s, last_tries = _PAUSE_S, 0
        while last_tries < _LAST_TRIES:
            ending = self._ending.is_set()  # asked first: what came before it is copied
            try:
                name = await asyncio.to_thread(self._due)
                if name is not None and name != self._pruned:
                    await self._bring(name, secure)
                    continue
                pause_s = _PAUSE_S
            except Fenced:
                return
            except BusError:
                log.info("no checkpoint is copied while Redis does not answer")
            except CheckpointGone as error:
                log.info("%s; the newest one is copied", error)
                continue
            except _TROUBLES as error:
                await self._fail(error)
                last_tries += ending
                await self._pause(min(pause_s, _PAUSE_S) if ending else pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            if ending:
                return
            await self._pause(_LOOK_S)

    def _due(self) -> str | None:
        """Raises CheckpointError, OSError."""
        rows = self._recorder.rows
        return due([path.name for path in list_marked(self._folder)], rows[-1]["step"] if rows else 0)

    async def _bring(self, name: str, secure: Secure) -> None:
        """Raises BusError, CheckpointGone, and what is in _TROUBLES."""
        await secure()
        if self._store is None:
            await asyncio.to_thread(sweep, self._recorder.run_dir)
            self._store = await _in_thread(self._open)
        store = self._store
        if name != self._copied:
            if self._copy is None or self._copy.name != name:
                self._copy = CheckpointCopy(self._recorder.run_dir, name)
            began_s = time.monotonic()
            await _in_thread(partial(self._copy.run, store))
            self._copied = name
            log.info("%s was copied to %s in %.0f s", name, store.url, time.monotonic() - began_s)
            await secure()
        keep = self._checkpoint.mirror_keep or self._checkpoint.keep_last
        await _in_thread(partial(delete_older, store, name, keep))
        self._pruned = name
        if self._why:
            self._why = ""
            await self._events.tell(Alert(cause=CAUSE, message=f"checkpoint.mirror has {name}", severity="notice"))

    def _open(self) -> ObjectStore:
        return ObjectStore(f"{str(self._checkpoint.mirror).rstrip('/')}/{self._recorder.identity.run_id}")

    async def _fail(self, error: Exception) -> None:
        told, self._why = bool(self._why), in_words(error)
        log.warning("checkpoint.mirror: %s", self._why)
        if not told:
            copied = self._copied != self._pruned
            what = "older checkpoints cannot be deleted there" if copied else "the newest checkpoint is not there"
            message = f"checkpoint.mirror: {self._why}. The run goes on, {what}; it is tried again"
            await self._events.tell(Alert(cause=CAUSE, message=message))

    async def _pause(self, seconds: float) -> None:
        """Shorter where the run ends meanwhile."""
        if self._ending.is_set():
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)


def _in_thread(work: Callable[[], T]) -> Awaitable[T]:
    """In one that keeps no process alive: nobody waits for it where its caller is cancelled."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited; a library's panic is one, too
            done.set_exception(error)

    threading.Thread(target=run, name=CAUSE, daemon=True).start()
    return asyncio.wrap_future(done)


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("checkpoints are copied no more, until the run goes on anew: %s", error, exc_info=error)
