"""URLs as they may be shown: in messages, logs, events and records."""

import re

_HIDDEN = "***"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|(?:rediss?|unix|https?):?/{1,2}", re.IGNORECASE)
# Values of these may hold an `@`, which is then no end of user name and password.
_CREDENTIAL_NAMES = ("user", "username", "pass", "passwd", "password")
_CREDENTIALS = re.compile(rf"([?&](?:{'|'.join(_CREDENTIAL_NAMES)})=)[^&]*", re.IGNORECASE)
_PLACE = re.compile(r"(?:[\w.-]*|\[[\w:.%]*\])(?::\d+)?(?:/[^@?#]*)?")
_NAME = re.compile(r"[\w-]+")


_SECRET_NAME = re.compile(
    r"(^|[_-])(key|token|secret|password|passwd|pass|auth|credentials?|sig)(_env)?$", re.IGNORECASE
)


def names_secret(name: str) -> bool:
    """Whether a field or a parameter is called as those are that hold secrets, or as one into which people put them
    by mistake (`api_key_env`): what it holds is not repeated."""
    return _SECRET_NAME.search(name) is not None


def names_url(name: str) -> bool:
    """Whether a field is called as those are that hold URLs."""
    return name.endswith(("url", "uri", "endpoint", "mirror"))


def holds_secret(url: str) -> bool:
    """A user name or password, or a parameter that is called as secrets are."""
    place, _, query = url.partition("://")[2].partition("?")
    return "@" in place or any(names_secret(one.partition("=")[0]) for one in query.split("&"))


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
    shown, after_secret = [], False
    for parameter in query.split("&"):
        shown.append(_redact_parameter(parameter, after_secret=after_secret))
        after_secret |= parameter.partition("=")[0].lower() in _CREDENTIAL_NAMES
    return "&".join(shown)


def _redact_parameter(parameter: str, *, after_secret: bool) -> str:
    """What follows a secret may be a part of it, as a password may hold `&` and `=`."""
    name, equals, value = parameter.partition("=")
    if name == "db" and value.isdecimal():
        return parameter
    known = name.lower() in _CREDENTIAL_NAMES or (_NAME.fullmatch(name) and not after_secret)
    return f"{name}={_HIDDEN}" if equals and known else _HIDDEN
