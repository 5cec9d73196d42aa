"""What a server says of its URL: enough to find it, and no password."""

import traceback

import pytest

from dapo.bus.errors import BusUnavailable
from dapo.bus.server.connection import Server


def test_user_name_and_password_are_not_shown() -> None:
    assert Server("redis://me:secret@host:1/2?password=secret", 0).shown == "redis://***@host:1/2?password=***"


@pytest.mark.parametrize("url", ["redis://me:secret", "redis://h:1/0?db=secret", "ftp://me:secret@h", "me:secret@h"])
def test_what_is_no_redis_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BusUnavailable, match=r"is no Redis URL\. Write redis://") as caught:
        Server(url, 0)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
