"""Named bearer tokens of a run service: kept as hashes, in a file that its owner alone can read.

A token is 256 random bits, so that its SHA-256 tells nothing and needs neither salt nor slowness; it is shown once,
when it is made.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from dapo.host.files import replacing

TOKEN_FILE = "tokens.json"
"""Its name in the directory of a run service."""
_PREFIX = "dapo_"
_BYTES = 32
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Scope(StrEnum):
    """What a token may do; each may do what those before it may."""

    READ = "read"
    """See runs and what they have written."""
    RUN = "run"
    """Start, steer and end runs."""
    ADMIN = "admin"
    """Delete them."""

    def covers(self, other: "Scope") -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


class TokenError(ValueError):
    """The file of tokens cannot be used, or not so; the message says why and what to do."""


class Token(NamedTuple):
    name: str
    """Whose it is, for the audit."""
    scope: Scope
    sha256: str
    created_at: str
    """ISO 8601, UTC."""


def digest(secret: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_tokens(path: Path) -> list[Token]:
    """None where there is no file. Raises TokenError for one that others may read or that holds something else."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise TokenError(f"{path} can be read or written by others (mode {mode:o}): chmod 600 {path}")
            rows = json.loads(file.read())["tokens"]
        return [_token(row) for row in rows]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TokenError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, TokenError):
            raise
        raise TokenError(f"{path} is no list of tokens as `dapo tokens` writes it; restore it, or remove it") from error


def _token(row: dict[str, str]) -> Token:
    token = Token(row["name"], Scope(row["scope"]), row["sha256"], row["created_at"])
    if not (_NAME.fullmatch(token.name) and _DIGEST.fullmatch(token.sha256)):
        raise ValueError(token.name)
    return token


def add_token(path: Path, name: str, scope: Scope) -> str:
    """Make a token and return it: nobody can read it again. Raises TokenError for a name that is taken or is none."""
    if not _NAME.fullmatch(name):
        raise TokenError(f"{name!r} is no name of a token: lower-case letters, digits, '.', '_' and '-', at most 64")
    secret = _PREFIX + secrets.token_urlsafe(_BYTES)
    created = datetime.now(UTC).isoformat(timespec="seconds")

    def change(tokens: list[Token]) -> list[Token]:
        if any(token.name == name for token in tokens):
            raise TokenError(f"there is a token {name!r} already: revoke it first, or take another name")
        return [*tokens, Token(name, scope, digest(secret), created)]

    _change(path, change)
    return secret


def revoke_token(path: Path, name: str) -> None:
    """A service that goes on refuses it from then on. Raises TokenError where there is none of that name."""

    def change(tokens: list[Token]) -> list[Token]:
        left = [token for token in tokens if token.name != name]
        if len(left) == len(tokens):
            known = ", ".join(token.name for token in tokens) or "none"
            raise TokenError(f"there is no token {name!r} in {path}; there are: {known}")
        return left

    _change(path, change)


def _change(path: Path, change: Callable[[list[Token]], list[Token]]) -> None:
    """Raises TokenError, also where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            rows = [token._asdict() for token in change(read_tokens(path))]
            with replacing(path, durable=True) as scratch:
                scratch.unlink(missing_ok=True)
                with open(scratch, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    json.dump({"tokens": rows}, file, indent=2)
    except OSError as error:
        raise TokenError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several that change the file at once, one after the other."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
