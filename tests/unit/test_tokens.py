"""The file of tokens, and `dapo tokens`."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.tokens import TOKEN_FILE, Scope, TokenError, add_token, digest, read_tokens, revoke_token


def test_a_token_is_kept_as_a_hash_in_a_file_of_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / TOKEN_FILE
    secret = add_token(path, "ada", Scope.READ)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in path.read_text()
    (token,) = read_tokens(path)
    assert (token.name, token.scope, token.sha256) == ("ada", Scope.READ, digest(secret))
    with pytest.raises(TokenError, match="already"):
        add_token(path, "ada", Scope.ADMIN)
    assert add_token(path, "bob", Scope.ADMIN) != secret
    revoke_token(path, "ada")
    assert [token.name for token in read_tokens(path)] == ["bob"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TokenError, match="there are: bob"):
        revoke_token(path, "ada")


@pytest.mark.parametrize("name", ["", "Ada", "a b", "../x", "a" * 65, "DAPO_API_TOKEN", "ä"])
def test_a_name_is_one_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenError, match="no name of a token"):
        add_token(tmp_path / TOKEN_FILE, name, Scope.READ)


@pytest.mark.parametrize(
    "row",
    [
        {"name": "a"},
        {"name": "a", "scope": "all", "sha256": "0" * 64, "created_at": ""},
        {"name": "a", "scope": "read", "sha256": "secret", "created_at": ""},
        3,
        None,
    ],
)
def test_what_is_no_token_is_refused(tmp_path: Path, row: object) -> None:
    path = tmp_path / TOKEN_FILE
    path.touch(0o600)
    path.write_text(json.dumps({"tokens": [row]}))
    with pytest.raises(TokenError, match="no list of tokens"):
        read_tokens(path)
    with pytest.raises(TokenError, match="no list of tokens"):
        add_token(path, "ada", Scope.READ)


def test_the_command_shows_a_token_once(tmp_path: Path) -> None:
    def dapo(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["tokens", *arguments, "--state-dir", str(tmp_path)])
        return done.exit_code, done.stdout, done.stderr

    code, secret, told = dapo("add", "ada", "--scope", "run")
    assert (code, "not shown again" in told) == (0, True)
    assert read_tokens(tmp_path / TOKEN_FILE)[0].sha256 == digest(secret.strip())
    assert "ada" in dapo("list")[1]
    assert secret.strip() not in dapo("list")[1]
    listed = json.loads(dapo("list", "--json")[1])
    assert (listed["name"], listed["scope"], sorted(listed)) == ("ada", "run", ["created_at", "name", "scope"])
    assert dapo("add", "ada", "--scope", "run")[0] == 2
    assert dapo("revoke", "ada")[0] == 0
    assert "no tokens" in dapo("list")[2]
    assert dapo("revoke", "ada")[0] == 2
