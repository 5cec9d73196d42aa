"""A run service that stands still is told from one that has nothing to say."""

import signal

import pytest

from dapo.client import RunClient, ServiceSilent
from services.orchestrator.api.signs import SIGN_S
from tests.support.orchestrator.run_service import TOKEN, Service, create


def test_a_service_that_was_stopped_is_told_from_one_that_has_nothing_to_say(service: Service, spec: dict) -> None:
    run = create(service, spec)
    with RunClient(f"http://127.0.0.1:{service.ready['port']}", TOKEN) as client:
        events = client.events(run["id"], silence_s=2 * SIGN_S)
        seen = next(events).id
        service.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(ServiceSilent, match="the run service has said nothing for 1 s"):
                list(client.events(run["id"], seen, silence_s=1.0))
        finally:
            service.process.send_signal(signal.SIGCONT)
        # Whoever asks again misses nothing. The model cannot be loaded, and that is the run's end.
        assert [event.data["state"] for event in client.events(run["id"], seen) if event.kind == "state"][
            -1
        ] == "failed"
