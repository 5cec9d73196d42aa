"""What shells propose, asked by bash itself with the script that dapo gives it."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.cli.completion import mend_words
from tests.support.paths import REPO

DAPO = Path(sys.executable).parent / "dapo"


class Service(BaseHTTPRequestHandler):
    released: Event

    def do_GET(self) -> None:
        self.released.wait()
        runs = [{"id": f"r-{number}", "state": "running"} for number in (1, 2)]
        found = (
            {"workers": ["generator-0", "learner-0"]} if self.path.endswith("/logs") else {"runs": runs, "next": None}
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[tuple[str, Event]]:
    """Its URL, and what lets it answer."""
    released = Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Stub", (Service,), {"released": released})) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", released
        released.set()
        server.shutdown()


def proposals(*lines: list[str], url: str = "http://127.0.0.1:9") -> list[list[str]]:
    """What bash proposes for the last of each line's words."""
    script = f'eval "$({DAPO} --show-completion bash)"\n'
    for words in lines:
        script += f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        script += f'_dapo_completion {DAPO}; echo "${{COMPREPLY[@]}}"\n'
    env = {**os.environ, "PYTHONPATH": str(REPO), "DAPO_URL": url, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(["bash", "--norc", "-c", script], env=env, capture_output=True, text=True, cwd=REPO)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_runs_and_workers_are_those_of_the_service(service: tuple[str, Event]) -> None:
    url, released = service
    released.set()
    found = proposals(
        ["dapo", "runs", "watch", "r"],
        ["dapo", "runs", "watch", "r-2"],
        ["dapo", "runs", "compare", "r-1", ""],
        ["dapo", "runs", "logs", "r-1", "le"],
        ["dapo", "runs", "watch", "runs/r"],
        url=url,
    )
    assert found == [["r-2", "r-1"], ["r-2"], ["r-2", "r-1"], ["learner-0"], []]


def test_a_service_that_hangs_or_is_away_is_not_waited_for_and_nothing_is_said(service: tuple[str, Event]) -> None:
    assert proposals(["dapo", "runs", "watch", ""], url=service[0]) == [[]]
    assert proposals(["dapo", "runs", "watch", ""], ["dapo", "runs", "logs", "r-1", ""]) == [[], []]


def test_states_and_commands_are_proposed() -> None:
    found = proposals(["dapo", "runs", "list", "--state", "s"], ["dapo", "runs", "wa"])
    assert found == [["starting", "succeeded", "stopped"], ["watch"]]


def test_fields_of_a_spec_and_their_values_are_proposed_as_bash_cuts_them() -> None:
    fields, one, presets, begun, truth = proposals(
        ["dapo", "train", "--set", "training."],
        ["dapo", "runs", "resume", "r-1", "--set", "training.steps"],
        ["dapo", "train", "--set", "algorithm.preset", "="],
        ["dapo", "train", "--set", "training.steps", "=", "3", "--set", "algorithm.preset", "=", "gr"],
        ["dapo", "train", "--set", "algorithm.dynamic_sampling", "=", "t"],
    )
    assert {"training.steps=", "training.prompts_per_step="} <= set(fields)
    assert one[0] == "training.steps="
    assert len(one) == 2
    assert presets[0] == "dapo"
    assert {"grpo", "ppo"} <= set(presets)
    assert (begun, truth) == (["grpo"], ["true"])


def mended(words: list[str]) -> tuple[list[str], str | None]:
    environment = {"_DAPO_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    mend_words(environment)
    found = environment["COMP_WORDS"].split("\n")
    assert environment["COMP_CWORD"] == str(len(found) - 1)
    return found, environment.get("_DAPO_COMPLETE_FIELD")


def test_what_bash_has_cut_is_joined() -> None:
    assert mended(["dapo", "--url", "http", ":", "//h", ":", "8400", "x"]) == (
        ["dapo", "--url", "http://h:8400", "x"],
        None,
    )
    assert mended(["dapo", "--set", "a.b", "=", "c"]) == (["dapo", "--set", "c"], "a.b")
    assert mended(["dapo", "--set", "a.b", "="]) == (["dapo", "--set", "''"], "a.b")
    assert mended(["dapo", "--set", "a.b", "=", "c", ""]) == (["dapo", "--set", "a.b=c", "''"], None)


WORD = st.text("ab-./", min_size=1)


@given(st.lists(WORD), WORD)
def test_words_that_bash_has_not_cut_stay(words: list[str], last: str) -> None:
    assert mended(["dapo", *words, last]) == (["dapo", *words, last], None)


@given(st.dictionaries(st.sampled_from(["COMP_WORDS", "COMP_CWORD", "HOME"]), st.text()))
def test_nothing_is_mended_for_others(environment: dict[str, str]) -> None:
    before = dict(environment)
    mend_words(environment)
    assert environment == before
