"""URLs as they may be shown: in messages, logs, events and records."""

import re

_HIDDEN = "***"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|(?:rediss?|unix|https?):?/{1,2}", re.IGNORECASE)
# Values of these may hold an `@`, which is then no end of user name and password.
_CREDENTIALS = re.compile(r"([?&](?:user|username|pass|passwd|password)=)[^&]*", re.IGNORECASE)
_PLACE = re.compile(r"(?:[\w.-]*|\[[\w:.%]*\])(?::\d+)?(?:/[^@?#]*)?")
_NAME = re.compile(r"[\w-]+")


def redact_url(url: str) -> str:
    """The URL with `***` for user name and password, and for the value of every query parameter but `db`.

    Scheme, host, port, path and database stay as they are. Where the text is malformed, so that host and password
    cannot be told apart, both are hidden. Text that is no URL, such as `localhost:6379`, is taken for a host and port.
    """
    text = _CREDENTIALS.sub(rf"\1{_HIDDEN}", url)
    found = _SCHEME.match(text)
    scheme = found[0] if found else ""
    # A password may hold `@` and `/`, where nobody has encoded them.
    user, at, rest = text[len(scheme) :].rpartition("@")
    if "?" in user or "#" in user:
        return scheme + _HIDDEN
    place, mark, query = rest.partition("?")
    shown = place if _PLACE.fullmatch(place) else _HIDDEN
    return f"{scheme}{_HIDDEN + at if at else ''}{shown}{mark}{_redact_query(query) if mark else ''}"


def _redact_query(query: str) -> str:
    return "&".join(map(_redact_parameter, query.split("&")))


def _redact_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals or not _NAME.fullmatch(name):
        return _HIDDEN
    return parameter if name == "db" and value.isdecimal() else f"{name}={_HIDDEN}"
