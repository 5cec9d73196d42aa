"""What all tests share."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from redis import Redis

from dapo.bus.server.embedded import EmbeddedValkey

# A shell that runs the tests in the background ignores Ctrl-C for them, and their processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines that run the tests may be busy: how long an example takes says nothing about it.
settings.register_profile("dapo", deadline=None)
settings.load_profile("dapo")


@pytest.fixture(scope="module")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A real Valkey for the tests of one module."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), memory_mib=256) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: EmbeddedValkey) -> EmbeddedValkey:
    """The module's Valkey, empty."""
    with Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server
