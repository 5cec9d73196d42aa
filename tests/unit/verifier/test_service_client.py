"""What is said of an endpoint that cannot be reached goes into verdicts and events: it shows no password."""

import asyncio
import socket

import pytest

from dapo.spec.tree.graders import RemoteGrader
from services.verifier.graders import GraderSetupError
from services.verifier.remote.client import ServiceClient, Unavailable


def test_an_unreachable_service_is_named_without_its_password() -> None:
    async def main(url: str) -> None:
        endpoint = ServiceClient(url, RemoteGrader(url=url, retries=0))
        try:
            await endpoint.post({})
        finally:
            await endpoint.close()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unavailable) as caught:
            asyncio.run(main(f"http://me:secret@{address}/score?api_key=secret"))
    assert str(caught.value).startswith(f"http://***@{address}/score?api_key=***: ")
    assert "secret" not in str(caught.value)


def test_a_url_without_a_host_for_its_password_is_refused_without_it() -> None:
    url = "http://me:secret"
    with pytest.raises(GraderSetupError, match="is no URL") as caught:
        ServiceClient(url, RemoteGrader(url=url))
    assert "secret" not in str(caught.value)
