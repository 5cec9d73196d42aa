"""`dapo grade` as a user runs it: real processes, real graders."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "dapo.cli.main", "grade"]


def grade(*arguments: object, stdin: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb"}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=cwd, env=env, timeout=120)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def verdicts(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


ROWS = [
    {"response": "Answer: 34", "gold": "34", "correct": True},
    {"response": "Answer: 35", "gold": "34", "correct": True},
    {"response": "Answer: 34", "gold": 34, "correct": False},
    {"response": "Answer: \x1b[31m\u202e7", "gold": "34"},
]


def test_json_has_a_line_for_each_row_in_order(tmp_path: Path) -> None:
    done = grade(write(tmp_path / "rows.jsonl", *ROWS * 100), "--grader", "math_dapo", "--json")
    found = verdicts(done)
    assert [verdict["line"] for verdict in found] == list(range(1, 401))
    assert [verdict["correct"] for verdict in found] == [True, False, True, False] * 100
    assert found[0] == {"line": 1, "correct": True, "score": 1.0, "reason": "equal", "extracted": "34"}
    assert "400 graded, 200 right (50.00 %)" in done.stderr
    assert "agrees with 100 of 300 labelled rows (33.33 %)" in done.stderr
    assert "line 2: the row says right, the grader wrong (different), answer 35, gold 34" in done.stderr
    assert "… and 100 more" in done.stderr


def test_a_table_for_people_from_standard_input() -> None:
    done = grade("-", "--grader", "math_dapo", stdin="".join(json.dumps(row) + "\n" for row in ROWS))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["line", "verdict", "score", "reason", "answer"]
    assert lines[1].split() == ["1", "right", "1.000", "equal", "34"]
    assert lines[2].split() == ["2", "wrong", "0.000", "different", "35", "(the", "row", "says", "right)"]
    assert "\\x1b[31m\\u202e7" in lines[4]
    assert "\x1b" not in done.stdout
    assert "agrees with 1 of 3 labelled rows (33.33 %)" in done.stdout


def test_malformed_rows_are_set_aside_up_to_a_limit(tmp_path: Path) -> None:
    bad = ["{", "[]", "", {"gold": "1"}, {"response": 3, "gold": "1"}, {"response": "a", "gold": None}]
    bad += [{"response": "a", "gold": "1", "correct": "yes"}, '{"response": "a", "response": "b", "gold": "1"}']
    path = write(tmp_path / "rows.jsonl", *bad, ROWS[0])
    done = grade(path, "--grader", "math_dapo", "--json")
    assert [verdict["line"] for verdict in verdicts(done)] == [9]
    for line, reason in {
        1: "not a JSON object",
        2: "not a JSON object but empty",
        4: "no field 'response'",
        5: "field 'response' must be a string, not int",
        6: "field 'gold' must be a gold answer, not null",
        7: "field 'correct' must be true or false, not 'yes'",
        8: "the key 'response' is written twice",
    }.items():
        assert f"{path}:{line}: {reason}" in done.stderr
    assert "7 malformed rows set aside" in done.stderr
    done = grade(path, "--grader", "math_dapo", "--malformed-limit", 6)
    assert done.returncode == 2
    assert "more rows are malformed than --malformed-limit 6 allows" in done.stderr


def test_other_fields_and_golds_of_other_types(tmp_path: Path) -> None:
    row = {"out": {"text": "<answer>3*4+1</answer>"}, "task": {"numbers": [3, 4, 1], "target": 13}, "label": 1}
    path = write(tmp_path / "rows.jsonl", row)
    fields = ["--response-field", "out.text", "--gold-field", "task", "--correct-field", "label"]
    done = grade(path, "--grader", "arithmetic", "--json", *fields)
    assert verdicts(done)[0]["correct"]
    assert "agrees with 1 of 1" in done.stderr


def test_options_of_a_grader_and_of_a_spec(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "#### 34", "gold": "34"}, {"response": "form", "gold": "?"})
    found = verdicts(grade(path, "--grader", "regex", "--option", "pattern=#### (.*)", "--json"))
    assert [verdict["correct"] for verdict in found] == [True, False]
    spec = write(
        tmp_path / "spec.yaml",
        "model: {path: m}",
        "data: {path: d}",
        "reward: {grader: mine, graders: {mine: {type: regex, pattern: form, compare: false}}}",
    )
    found = verdicts(grade(path, "--spec", spec, "--json"))
    assert [verdict["correct"] for verdict in found] == [False, True]
    found = verdicts(grade(path, "--spec", spec, "--grader", "mine", "--option", "pattern=34", "--json"))
    assert [verdict["correct"] for verdict in found] == [True, False]


def test_a_hang_costs_one_verdict(tmp_path: Path) -> None:
    rows = [{"response": "aaa", "gold": "aaa"}] * 5
    path = write(tmp_path / "rows.jsonl", *rows, {"response": "a" * 60 + "b", "gold": "a"}, *rows)
    done = grade(path, "--grader", "regex", "--option", "pattern=^(a+)+$", "--timeout", 1, "--processes", 1, "--json")
    assert [verdict["reason"] for verdict in verdicts(done)] == ["equal"] * 5 + ["timeout"] + ["equal"] * 5
    assert "1 failed gradings" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grader", "nonsense"], "no grader is called 'nonsense'. Take one of arithmetic,"),
        (["--grader", "regex"], "no grader is called 'regex'"),
        (["--grader", "math_verify", "--option", "digits=many"], "digits"),
        (["--grader", "math_verify", "--option", "digit=3"], "digit"),
        (["--grader", "math_verify", "--option", "digits"], "--option digits: write it as KEY=VALUE"),
        (["--grader", "regex", "--option", "pattern='('"], "is no regular expression"),
        (["--grader", "exact", "--timeout", "0"], "grader_timeout_s"),
        ([], "name a grader with --grader"),
        (["--grader", "python:no_such_module:f"], "no_such_module"),
        (["--grader", "json_schema", "--option", "schema_path=absent.json"], "absent.json cannot be read"),
    ],
)
def test_refusals_say_what_to_do(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = grade(write(tmp_path / "rows.jsonl", *ROWS), *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there() -> None:
    done = grade("absent.jsonl", "--grader", "exact")
    assert (done.returncode, done.stdout) == (2, "")
    assert "absent.jsonl is no file" in done.stderr


def test_a_reader_that_leaves_early_ends_it_quietly(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *ROWS * 2_000)
    process = subprocess.Popen(
        [*COMMAND, str(path), "--grader", "exact", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


@pytest.mark.parametrize("from_file", [True, False])
def test_an_interrupt_ends_it_with_its_processes(tmp_path: Path, from_file: bool) -> None:
    rows = write(tmp_path / "rows.jsonl", *[{"response": "a" * 60 + "b", "gold": "a"}] * 50)
    source = str(rows) if from_file else "-"
    options = ["--grader", "regex", "--option", "pattern=^(a+)+$", "--timeout", "30"]
    process = subprocess.Popen([*COMMAND, source, *options], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    process.stdin.write(rows.read_bytes())
    process.stdin.flush()
    deadline_s = time.monotonic() + 60
    while not (children := children_of(process.pid)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert children
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (130, -signal.SIGINT)
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_memory_does_not_grow_with_the_file() -> None:
    rows, row = 20_000, json.dumps({"response": "x" * 12_000, "gold": "y"}).encode() + b"\n"
    command = [*COMMAND, "-", "--grader", "math_dapo", "--json"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    for _ in range(rows):
        process.stdin.write(row)
    process.stdin.flush()
    status = Path(f"/proc/{process.pid}/status").read_text()
    (peak_kib,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    _, stderr = process.communicate(timeout=300)
    assert b"20,000 graded, 0 right" in stderr
    assert len(row) * rows > 200 << 20
    assert peak_kib < 150 << 10
