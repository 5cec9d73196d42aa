"""Following a run until it has ended, through restarts of its service and losses of the connection."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dapo.cli.display.displays import Display
from dapo.client import RefusedRequest, Run, RunClient, RunEvent, ServiceError, ServiceSilent
from dapo.contracts.events import SHUT_DOWN

SILENCE_S = 30.0
"""A service says something three times as often."""
GIVE_UP_S = 600.0
ENDED = frozenset({"succeeded", "failed", "stopped", "cancelled"})
_PAUSE_S = 1.0
_LOOK_S = 2.0


class _Patience:
    """How long nothing was heard of the service, and when that is too long."""

    def __init__(self, display: Display, gone_s: float) -> None:
        self._display = display
        self._gone_s = gone_s
        self._since_s: float | None = None
        self._last_call = ""

    def heard(self) -> None:
        if self._since_s is not None:
            self._since_s = None
            self._display.note("")

    def failed(self, error: ServiceError) -> None:
        """Says what is waited for, and waits a little. Raises the error where it has lasted too long."""
        silent = isinstance(error, ServiceSilent)
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s - (SILENCE_S if silent else 0.0)
            self._last_call = time.strftime("%H:%M:%S", time.localtime(time.time() + self._gone_s))
        lasted_s, most_s = now_s - self._since_s, GIVE_UP_S if silent else self._gone_s
        if lasted_s >= most_s:
            raise error
        if silent:
            self._display.note(f"the run service has said nothing for {lasted_s:.0f} s: it hangs, or was stopped")
            return
        self._display.note(f"{error}. Waiting for it until {self._last_call}")
        time.sleep(_PAUSE_S)


def follow(client: RunClient, run_id: str, display: Display, after: str = "", *, gone_s: float = 0.0) -> Run:
    """Show the events of a run behind the one with id `after` ("": all) until it has ended; returns it as it ended.

    A service that is silent is waited for ten minutes, one that is gone or was shut down `gone_s`; then events go on
    behind the last one seen, so that none is missed or shown twice. Raises ServiceError where that is too long, and
    RefusedRequest.
    """
    patience = _Patience(display, gone_s)
    seen = after

    def heard(sent: RunEvent) -> str:
        patience.heard()
        display.event(sent)
        return sent.id

    while True:
        try:
            for sent in client.events(run_id, seen, silence_s=SILENCE_S):
                seen = heard(sent)
            run = client.get(run_id)
            if run["state"] in ENDED and not (gone_s and run["message"] == SHUT_DOWN):
                patience.heard()
                return run
            patience.failed(ServiceError("the run service ended the watch while the run went on"))
        except RefusedRequest as error:
            if not error.for_now:
                raise
            patience.failed(error)
        except ServiceError as error:
            patience.failed(error)


class Snapshots:
    """Shows every two seconds how a run and, with `pipeline`, its pipeline stand, in a thread beside the events.

    `connect` makes a client for that thread. A service that does not answer is left to `follow`.
    """

    def __init__(self, connect: Callable[[], RunClient], run_id: str, display: Display, *, pipeline: bool) -> None:
        self._connect = connect
        self._run_id = run_id
        self._display = display
        self._pipeline = pipeline
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="snapshots", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        # A request that hangs must not hold up whoever leaves: the thread dies with the process.
        self._over.set()

    def _look(self) -> None:
        with self._connect() as client:
            while not self._over.is_set():
                try:
                    run = client.get(self._run_id)
                    pipeline: Mapping[str, Any] = client.pipeline(self._run_id) if self._pipeline else {}
                except RefusedRequest as error:
                    if not error.for_now:
                        return
                except ServiceError:
                    pass
                else:
                    if not self._over.is_set():
                        self._display.snapshot(run, pipeline)
                self._over.wait(_LOOK_S)
