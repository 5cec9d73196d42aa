"""One place that is told of a run, in a thread of its own."""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dapo.host.files import write_text
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder
from services.orchestrator.tracking.secrets import without_secrets
from services.orchestrator.tracking.sink import Row, Sink, Told, TrackedRun, Trained

log = logging.getLogger(__name__)

_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
SILENT_S = 30.0
"""A call that takes longer is told to people."""
_ALERTS, _TRAINED = 256, 256
"""Kept for a place that is behind."""
_WORDS = 300
"""Characters of a library's message."""


class Feed:
    """Rows and evaluations go from the run's own lists, which are there anyway, to one sink, at the sink's own pace.

    Whoever calls waits for nothing. Where a call of the sink raises, it is begun anew after a pause, and told what it
    lacks. `finished`: it was told all, and its end. A thread that hangs is left behind; it keeps no process alive.

    Restart: how far the sink was told is noted after each row. What it was told and is not noted, it is told twice,
    under the same number.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        run: TrackedRun,
        rows: Sequence[Row],
        evaluations: Sequence[Row],
    ) -> None:
        """`rows`, `evaluations`: lists that others append to. What they hold now stays."""
        self.name = name
        self.finished = False
        self._make = make
        self._run = run
        self._rows, self._next_row = rows, 0
        self._evaluations, self._next_evaluation = evaluations, 0
        self._kept = self._until = rows[-1]["step"] if rows else 0
        self._note: Path = RunFolder(run.run_dir).tracking / f"{name}.json"
        self._sink: Sink | None = None
        self._told: Told | None = None
        self._alerts: deque[str] = deque(maxlen=_ALERTS)
        self._trained: OrderedDict[int, Trained] = OrderedDict()
        self._lost = 0
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._left = False
        self._end: tuple[str, str] = ("", "")
        self._calling_since: float | None = None
        self._words: deque[str] = deque()
        self._why = ""
        self._told_trouble = self._told_silence = self._told_recovery = False
        self._thread = threading.Thread(target=self._work, name=f"tracking {name}", daemon=True)

    def start(self) -> None:
        self._wake.set()
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def tell(self, until: int, trained: Trained | None = None) -> None:
        """There may be something new. Steps up to `until` are there, and of the last one what was known of it."""
        if trained is not None:
            self._trained[until] = trained
            if len(self._trained) > _TRAINED:
                self._trained.popitem(last=False)
                self._lost += 1
        self._until = max(self._until, until)
        self._wake.set()

    def alert(self, message: str) -> None:
        self._lost += len(self._alerts) == _ALERTS
        self._alerts.append(message)
        self._wake.set()

    def end(self, state: str, message: str) -> None:
        """Nothing more comes; what is there is still told. A sink that fails now gets no other try."""
        self._until = self._rows[-1]["step"] if self._rows else 0
        self._end = (state, message)
        self._ending.set()
        self._wake.set()

    def leave(self) -> None:
        """Nothing more is told."""
        self._left = True
        self._ending.set()
        self._wake.set()

    def words(self) -> list[str]:
        """What people should know, each once."""
        since = self._calling_since
        if since is not None and time.monotonic() - since > SILENT_S and not self._told_silence:
            self._told_silence = True
            self._words.append(f"tracking.{self.name} has not answered for {SILENT_S:g} s; the run goes on")
        return [self._words.popleft() for _ in range(len(self._words))]

    def last_words(self, waited_s: float) -> str | None:
        """What it lacks once it was waited for; None where it has all."""
        told = self._told or Told()
        rows = sum(row["step"] > told.step for row in self._rows[self._next_row :])
        evaluations = sum(map(told.lacks, self._evaluations[self._next_evaluation :]))
        lost = f" {self._lost} alerts or traces were left out as it did not keep up." if self._lost else ""
        if self.finished:
            return f"tracking.{self.name} has all steps.{lost}" if lost else None
        why = self._why or f"it was not done within {waited_s:g} s"
        return (
            f"tracking.{self.name} lacks {rows} steps and {evaluations} evaluations, or their end: {why}.{lost} It is "
            "told what it lacks if the run goes on"
        )

    def _work(self) -> None:
        try:
            self._follow()
        finally:
            self._close()

    def _follow(self) -> None:
        pause_s = _PAUSE_S
        while not self._left:
            self._wake.clear()
            try:
                self._tell_all()
            except Exception as error:  # noqa: BLE001 - whatever a library raises is the trouble of its place alone
                if self._ending.is_set():
                    self._why = _in_words(error)
                    return
                self._fail(error)
                self._ending.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _PAUSE_S
            self._recover()
            if self.finished:
                return
            self._wake.wait()

    def _tell_all(self) -> None:
        sink = self._sink or self._call(self._begin)
        told = self._told
        assert told is not None
        ending = self._ending.is_set()  # asked first: what came before it is told
        while not self._left and self._next_row < len(self._rows):
            row = self._rows[self._next_row]
            if row["step"] > self._until:
                break
            trained = self._trained.get(row["step"])
            if row["step"] > told.step:
                self._call(sink.step, row, told.records, trained)
                told.step = row["step"]
                self._note_one(told)
            self._next_row += 1
            self._trained.pop(row["step"], None)
        while not self._left and self._next_evaluation < len(self._evaluations):
            evaluation = self._evaluations[self._next_evaluation]
            if told.lacks(evaluation):
                self._call(sink.evaluation, evaluation, told.records)
                told.evaluations[evaluation["set"]] = evaluation["step"]
                self._note_one(told)
            self._next_evaluation += 1
        while not self._left and self._alerts:
            self._call(sink.alert, self._alerts[0])
            self._alerts.popleft()
        if ending and not self._left:
            self._call(sink.end, *self._end)
            self.finished = True

    def _begin(self) -> Sink:
        sink = self._sink = self._make()
        if self._told is None:
            told = self._read_note()
            told.starts += 1
            self._write_note(told)
            if sink.rewinds:
                told.rewind(self._kept)
            self._told = told
        elif sink.forgets:
            self._told.rewind(self._told.step)
            self._next_evaluation = 0
        sink.begin(self._run, self._told)
        return sink

    def _read_note(self) -> Told:
        return Told.model_validate_json(self._note.read_bytes()) if self._note.exists() else Told()

    def _write_note(self, told: Told) -> None:
        self._note.parent.mkdir(exist_ok=True)
        write_text(self._note, told.model_dump_json(indent=2) + "\n")

    def _note_one(self, told: Told) -> None:
        """Nothing where others go on with the run: they may have begun while a call hung, or this process was frozen,
        and the note is theirs."""
        if self._left or self._read_note().starts > told.starts:
            self._left = True
            return
        told.records += 1
        self._write_note(told)

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        self._calling_since = time.monotonic()
        try:
            return method(*arguments)
        finally:
            self._calling_since = None

    def _fail(self, error: Exception) -> None:
        self._why = _in_words(error)
        self._close()
        log.warning("tracking.%s of %s: %s", self.name, self._run.run_id, self._why)
        if not self._told_trouble:
            self._told_trouble = True
            self._words.append(
                f"tracking.{self.name}: {self._why}. The run goes on; it is tried again, and told then what it lacks"
            )

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001 - as above; it has failed already, or was told all
                log.warning("tracking.%s of %s: %s", self.name, self._run.run_id, _in_words(error))

    def _recover(self) -> None:
        if self._why:
            self._why = ""
            log.info("tracking.%s of %s goes on", self.name, self._run.run_id)
            if not self._told_recovery:
                self._told_recovery = True
                self._words.append(f"tracking.{self.name} goes on, and has all steps up to {self._until}")


def _in_words(error: Exception) -> str:
    text = in_words(error) if isinstance(error, OSError) and error.errno else f"{type(error).__name__}: {error}"
    return " ".join(without_secrets(text).split())[:_WORDS]
