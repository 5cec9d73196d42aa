"""No user name and no password is shown, wherever it stands in a URL and however malformed the URL is."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dapo.redaction import names_secret, redact_url

CANARY = "canary7391"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        # Nothing to hide.
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://[::1]:6379/0?db=2", "rediss://[::1]:6379/0?db=2"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("https://judge.example:8000/v1/chat/completions", "https://judge.example:8000/v1/chat/completions"),
        ("localhost:6379", "localhost:6379"),
        ("nonsense", "nonsense"),
        ("", ""),
        # User name and password before the host.
        ("redis://user:secret@host:1/2", "redis://***@host:1/2"),
        ("redis://user:p@ss/w@host:6379", "redis://***@host:6379"),
        ("rediss://:secret@host", "rediss://***@host"),
        ("rediss://:p%40ss@host", "rediss://***@host"),
        ("redis://user@host", "redis://***@host"),
        ("redis://user:secret@[fe80::1%25eth0]:6379/1", "redis://***@[fe80::1%25eth0]:6379/1"),
        ("unix://user:secret@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("https://user:secret@judge/v1", "https://***@judge/v1"),
        ("user:secret@host", "***@host"),
        ("http//u:secret@host", "http//***@host"),
        ("redis:/u:secret@host", "redis:/***@host"),
        # In the query.
        ("unix:///run/redis.sock?password=secret&db=1", "unix:///run/redis.sock?password=***&db=1"),
        (
            "unix:///run/redis.sock?db=1&username=me&password=s@c?r=t",
            "unix:///run/redis.sock?db=1&username=***&password=***",
        ),
        ("redis://host:6379/0?PASSWORD=secret", "redis://host:6379/0?PASSWORD=***"),
        ("redis://u:secret@host:1/0?password=secret", "redis://***@host:1/0?password=***"),
        ("https://judge/v1?api_key=secret", "https://judge/v1?api_key=***"),
        ("https://judge/v1?secret", "https://judge/v1?***"),
        ("redis://host/0?db=secret", "redis://host/0?db=***"),
        # Malformed, so that a password may stand where the host or the port should.
        ("redis://user:secret", "redis://***"),
        ("redis://user:secret/0", "redis://***"),
        ("user:secret", "***"),
        ("redis://user:se?cret@host", "redis://***"),
        ("redis://user:se#cret@host", "redis://***"),
        ("redis://user:secret?password=secret@host", "redis://***?password=***"),
        ("https://judge/v1?token=a@secret", "https://***"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


around = st.text(st.sampled_from("aZ09@:/?#&=%[]!$'()*+,; -._~é"), max_size=6)
schemes = st.sampled_from(["redis://", "rediss://", "unix://", "http://", "https://", "redis:/", "http//", ""])
places = st.sampled_from(["host", "host:6379", "host:6379/0", "10.0.0.1:1/2", "[::1]:6379", "/run/redis.sock", ""])
ends = st.sampled_from(["", "?db=1", "?password=x", "?db=1&username=y"])


@given(schemes, around, around, places, ends)
@example("redis://", "@", "?a=", "host", "")
def test_no_password_before_the_host_is_shown_unencoded_or_not(
    scheme: str, before: str, after: str, place: str, end: str
) -> None:
    for secret in (f":{before}{CANARY}{after}", f"user:{before}{CANARY}{after}", f"{CANARY}:x{after}"):
        assert CANARY not in redact_url(f"{scheme}{secret}@{place}{end}")


@given(schemes, places, st.sampled_from(["", "u:p@", "u@"]), around, around, st.sampled_from(["", "&db=1"]))
@example("redis://", "host", "", "&", "=", "")
def test_no_password_in_the_query_is_shown(
    scheme: str, place: str, user: str, before: str, after: str, end: str
) -> None:
    for name in ("password", "username", "user", "pass", "Password"):
        for start in ("?", "?db=1&"):
            assert CANARY not in redact_url(f"{scheme}{user}{place}{start}{name}={before}{CANARY}{after}{end}")


@given(st.sampled_from(["redis://", "rediss://", "unix://", "https://"]), places, ends)
def test_host_port_and_database_stay(scheme: str, place: str, end: str) -> None:
    assert redact_url(scheme + place) == scheme + place
    assert redact_url(f"{scheme}u:p@{place}{end}").startswith(f"{scheme}***@{place}")


@given(st.text())
def test_any_text_can_be_shown(text: str) -> None:
    redact_url(text)


@pytest.mark.parametrize(
    "name", ["api_key", "api_key_env", "Token", "access-token", "password", "client_secret", "key", "sig"]
)
def test_names_of_secrets_are_known(name):
    assert names_secret(name)


@pytest.mark.parametrize("name", ["max_response_tokens", "path", "url", "keep_last", "author", "monkey", "passes"])
def test_other_names_are_not(name):
    assert not names_secret(name)
