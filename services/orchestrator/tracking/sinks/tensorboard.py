"""Event files for TensorBoard, by its own writer (no TensorFlow, no torch)."""

import time
from collections.abc import Mapping
from typing import ClassVar

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from services.orchestrator.tracking.sink import Row, Told, TrackedRun, Trained
from services.orchestrator.tracking.values import evaluation_values, step_values

FOLDER = "tensorboard"
"""Below RUN_DIR."""


class TensorboardSink:
    """Each start of the run writes a file of its own. It opens with a SessionLog, at which TensorBoard forgets what
    earlier files have of the steps from there on (`purge_step` of other writers)."""

    rewinds: ClassVar[bool] = True
    forgets: ClassVar[bool] = True

    def __init__(self) -> None:
        self._writer: EventFileWriter | None = None
        self._last = 0

    def begin(self, run: TrackedRun, told: Told) -> None:
        self._last = told.step
        self._writer = EventFileWriter(str(run.run_dir / FOLDER))
        self._write(Event(step=told.step + 1, session_log=SessionLog(status=SessionLog.START)))

    def step(self, row: Row, record: int, trained: Trained | None) -> None:
        self._last = row["step"]
        self._scalars(row["step"], step_values(row))

    def evaluation(self, row: Row, record: int) -> None:
        self._scalars(row["step"], evaluation_values(row))

    def alert(self, message: str) -> None:
        self._write(Event(step=self._last, summary=text_pb("alert", message)))

    def end(self, state: str, message: str) -> None:
        self._write(Event(step=self._last, summary=text_pb("end", f"{state} {message}".strip())))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        shown = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=shown)))

    def _write(self, event: Event) -> None:
        assert self._writer is not None
        event.wall_time = time.time()
        self._writer.add_event(event)
        self._writer.flush()
