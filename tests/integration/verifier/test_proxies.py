"""Graders that ask services, where HTTP_PROXY names a real proxy: this host's own services are asked directly."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dapo.spec.tree.graders import JudgeGrader, RemoteGrader
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.pool import GraderStartError
from tests.support.verifier.http_service import Answer, Service, serving
from tests.support.verifier.remote import FAST, grade, use

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def full_marks(number: int, body: Any) -> Answer:
    return Answer({"scores": [1.0 for _ in body.get("items", ())]})


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """It answers itself for whatever host it is asked for."""
    with serving(full_marks) as service:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("HTTP_PROXY", service.url.removesuffix("/v1"))
        yield service


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", socket.gethostname()])
def test_a_service_of_this_host_is_never_asked_through_the_proxy(proxy: Service, host: str) -> None:
    with serving(full_marks, host="0.0.0.0") as service:
        url = service.url.replace("0.0.0.0", host)
        verdicts = grade(RemoteGrader(url=url, **FAST), "yes")
        assert [(one.correct, one.reason) for one in verdicts] == [(True, "passed")]
        assert (len(service.calls), len(proxy.calls)) == (1, 0)
        judged = grade(JudgeGrader(url=url, model="m", rubric="r", **FAST), "yes")
        assert (len(service.calls), len(proxy.calls)) == (2, 0), judged


def test_a_service_elsewhere_is_asked_through_the_proxy(proxy: Service) -> None:
    verdicts = grade(RemoteGrader(url="http://rewards.test:8000/score", **FAST), "yes")
    assert [(one.correct, one.reason) for one in verdicts] == [(True, "passed")]
    assert proxy.headers["host"] == "rewards.test:8000"


@pytest.mark.parametrize("value", ["http://proxy:port", "socks4://proxy:1080", "http://[::1", "http://me:secret@"])
def test_a_bad_proxy_is_told_in_words_and_only_where_it_matters(
    proxy: Service, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)

    async def nothing(grading: Grading) -> None:
        pass

    with pytest.raises(GraderStartError, match="HTTP_PROXY is no URL of a proxy") as caught:
        use({"mine": RemoteGrader(url="http://rewards.test:8000/score", **FAST)}, nothing)
    assert "secret" not in str(caught.value)
    with serving(full_marks) as service:
        assert grade(RemoteGrader(url=service.url, **FAST), "yes")[0].correct
