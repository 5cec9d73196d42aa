"""What `dapo serve` is told reaches the service; what cannot be is refused, with the name of the option."""

import asyncio
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dapo.cli import children
from dapo.cli.main import app
from dapo.environment import REDIS_VARIABLE, TOKEN_VARIABLE
from services.orchestrator import __main__ as service
from services.orchestrator.__main__ import _arguments, main
from services.orchestrator.launchers import BadLauncher, open_attached, open_local
from services.orchestrator.queue.rule import Inventory


def counted(options: list[str]) -> Inventory:
    """What the service has by these options."""

    async def opened() -> Inventory:
        async with AsyncExitStack() as stack:
            return (await open_local(_arguments(options), stack)).capacity.has

    return asyncio.run(opened())


def test_the_machine_is_what_the_command_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(children, "become_module", lambda module, *options, **_: given.extend(options))
    result = CliRunner().invoke(app, ["serve", "--max-runs", "2", "--cores", "3", "--memory-gib", "4"])
    assert result.exit_code == 0, result.output
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    has = counted(given)
    assert (has.gpus, has.runs, has.cores, has.memory) == (2, 2, 3, 4 * 2**30)


def test_without_options_cores_and_runs_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    has = counted([])
    assert (has.gpus, has.runs, has.cores) == (0, None, None)
    assert has.memory is not None


@pytest.mark.parametrize("options", [["--max-runs", "0"], ["--cores", "x"], ["--embedded", "--max-runs", "1"]])
def test_what_means_nothing_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _arguments(options)
    assert options[-2] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--launcher attached needs a Redis"),
        (["--redis-url", "redis://h:1", "--cores", "2"], "does not go with --cores"),
        (["--redis-url", "redis://h:1", "--embedded"], "does not go with --embedded"),
    ],
)
def test_what_does_not_go_with_agents_is_refused_by_name(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REDIS_VARIABLE, raising=False)

    async def opened() -> None:
        async with AsyncExitStack() as stack:
            await open_attached(_arguments(["--launcher", "attached", *options]), stack)

    with pytest.raises(BadLauncher, match=says):
        asyncio.run(opened())


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
@pytest.mark.parametrize("value", ["-1", "65536", "99999", "http"])
def test_a_port_that_cannot_be_is_refused_by_name(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _arguments([option, value])
    assert f"argument {option}: {value} is none: 0 to 65535" in capsys.readouterr().err
    result = CliRunner().invoke(app, ["serve", option, value])
    assert (result.exit_code, option in result.output) == (2, True)


@pytest.mark.parametrize("option", ["--requests-per-minute", "--streams", "--cores"])
def test_a_number_below_one_is_refused_by_name(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _arguments([option, "0"])
    assert f"argument {option}: 0 is none: 1 or more" in capsys.readouterr().err


def serves(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    """`main` has these options, and leaves the logs of the tests alone."""
    monkeypatch.setattr(sys, "argv", ["serve", *options])
    monkeypatch.setattr(service.logs, "configure", lambda role: None)


def test_a_host_that_is_not_of_this_machine_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a secret of some length")
    serves(monkeypatch, ["--embedded", "--state-dir", str(tmp_path), "--host", "192.0.2.1"])
    assert main() == 2
    assert capsys.readouterr().err.rstrip().endswith("Give a --host of this machine")


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_that_somebody_has_is_told_with_its_option(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        serves(monkeypatch, ["--embedded", "--state-dir", str(tmp_path), option, port])
        assert main() == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"the run service cannot serve: {option} {port}: ")
    assert said.endswith(f"Take another {option}, or end what has this one")


@pytest.mark.parametrize("below", ["", "state"])
def test_a_state_dir_that_is_no_directory_is_told_with_its_option(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spec.yaml"
    file.touch()
    serves(monkeypatch, ["--state-dir", str(file / below)])
    assert main() == 2
    assert f"--state-dir {file / below} is no directory and cannot be made one" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["list"], ["revoke", "ada"]])
def test_tokens_of_a_directory_that_is_not_there_are_not_none(command: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tokens", *command, "--state-dir", str(tmp_path / "no")])
    assert (result.exit_code, "--state-dir" in result.output) == (2, True)
    assert not (tmp_path / "no").exists()


def test_who_may_scrape_and_how_logs_look_reach_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(children, "become_module", lambda module, *options, **_: given.extend(options))
    wanted = ["--metrics-address", "[::1]:9108", "--metrics-open", "--log-format", "json"]
    result = CliRunner().invoke(app, ["serve", *wanted])
    assert result.exit_code == 0, result.output
    found = _arguments(given)
    assert (found.metrics_address, found.metrics_open, found.log_format) == (("::1", 9108), True, "json")
    found = _arguments([])
    assert (found.metrics_address, found.metrics_open, found.log_format) == (None, False, None)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--metrics-address", "9108", "9108 is none: HOST:PORT, e.g. 127.0.0.1:9108"),
        ("--metrics-address", "127.0.0.1:x", "x is none: 0 to 65535"),
        ("--log-format", "xml", "invalid choice: 'xml'"),
    ],
)
def test_an_option_of_metrics_and_logs_that_cannot_be_is_refused_by_name(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _arguments([option, value])
    said = capsys.readouterr().err
    assert f"argument {option}: {says}" in said


def test_a_place_of_metrics_that_somebody_has_is_told_with_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serves(monkeypatch, ["--embedded", "--state-dir", str(tmp_path), "--metrics-address", f"127.0.0.1:{port}"])
        assert main() == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"--metrics-address {port}: metrics cannot listen there" in said
    assert said.endswith("Take another --metrics-address, or end what has this one")
