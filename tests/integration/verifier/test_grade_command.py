"""`dapo grade` as a user runs it: real processes, real graders."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dapo.contracts.prompts import prompt_text
from dapo.data import open_source
from dapo.spec.tree.data import SourceSpec
from services.verifier.tools.rows import ResponseFields, RowReader
from tests.support.paths import REPO
from tests.support.verifier.http_service import Answer, serving

COMMAND = [sys.executable, "-m", "dapo.cli.main", "grade"]


def grade(*arguments: object, stdin: str = "", cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(REPO), "NO_COLOR": "1", "TERM": "dumb"}
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
        (["--grader", "regex"], "--grader regex needs pattern, e.g. --option 'pattern=#### (.*)'"),
        (["--grader", "judge", "--option", "model=m"], "--grader judge needs url and rubric, e.g. --option url=http"),
        (["--grader", "remote"], "--grader remote needs url"),
        (["--grader", "weighted"], "--grader weighted needs parts, e.g. --option 'parts={exact: 1}'"),
        (["--grader", "weighted", "--option", "parts={exact:1}"], "YAML wants a space after the colon, e.g. parts={ex"),
        (["--grader", "weighted", "--option", "parts={exact"], "reward.graders.weighted.parts"),
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


def test_a_device_is_no_file() -> None:
    done = grade("/dev/zero", "--grader", "exact")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/dev/zero is no file or pipe" in done.stderr


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "rows"
    os.mkfifo(pipe)
    process = subprocess.Popen([*COMMAND, str(pipe), "--grader", "math_dapo", "--json"], stdout=subprocess.PIPE)
    pipe.write_text(json.dumps(ROWS[0]) + "\n")
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["correct"]) == (0, True)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no row that could be graded"),
        (["{"], "has no row that could be graded"),
        ([{"response": "3", "gold": "no JSON"}] * 3, "every grading failed"),
    ],
)
def test_where_nothing_could_be_graded_the_exit_code_says_so(tmp_path: Path, rows: list[Any], says: str) -> None:
    done = grade(write(tmp_path / "rows.jsonl", *rows), "--grader", "arithmetic", "--json")
    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("rows", [1, 500])
def test_a_full_disk_is_named(tmp_path: Path, options: list[str], rows: int) -> None:
    path = write(tmp_path / "rows.jsonl", *ROWS[:1] * rows)
    with open("/dev/full", "w") as full:
        command = [*COMMAND, str(path), "--grader", "exact", *options]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPO, timeout=60)
    assert done.returncode == 2
    assert "error: standard output cannot be written: No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_the_time_counts_from_the_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "a" * 60 + "b", "gold": "a"})
    done = grade(path, "--grader", "regex", "--option", "pattern=^(a+)+$", "--timeout", 1.5)
    assert done.returncode == 1
    assert float(re.findall(r" in ([\d.]+) s", done.stdout)[0]) >= 1.5


@pytest.mark.parametrize("grader", ["remote", "judge"])
def test_a_lone_surrogate_costs_its_row(tmp_path: Path, grader: str) -> None:
    good = {"response": "a", "gold": "1", "prompt": "p"}
    bad = [json.dumps(good | {field: "\ud800"}) for field in good]
    with serving(lambda number, body: Answer({"scores": [1.0] * len(body.get("items", []))})) as service:
        options = ["--option", f"url={service.url}", "--option", "retries=0"]
        options += ["--option", "model=m", "--option", "rubric=r"] * (grader == "judge")
        done = grade(write(tmp_path / "rows.jsonl", *bad, good), "--grader", grader, *options, "--json")
    assert "Traceback" not in done.stderr
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [4]
    for line, field in enumerate(good, 1):
        assert f":{line}: field {field!r} holds a lone surrogate at character 0" in done.stderr


def test_a_service_sees_prompt_and_gold_as_in_training(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rows = [
        {"response": "a", "gold": [1, {"x": "ü"}], "prompt": prompt}
        for prompt in (messages, "Why?", None, "", json.dumps(messages))
    ]
    path = write(tmp_path / "rows.jsonl", *rows)
    with serving(lambda number, body: Answer({"scores": [1.0] * len(body["items"])})) as service:
        done = grade(path, "--grader", "remote", "--option", f"url={service.url}", "--json")
        items = [item for call in service.calls for item in call["items"]]
    [source] = open_source(SourceSpec(path=str(write(tmp_path / "d.jsonl", rows[0])), gold_field="gold"), "d")
    assert items[0] == {"response": "a", "prompt": prompt_text(source.prompt), "gold": source.gold}
    whole = "system: Be brief.\n\nuser: Why?"
    assert [item["prompt"] for item in items] == [whole, "Why?", "", "", whole]
    assert verdicts(done)[0]["correct"]
    assert done.stderr.count("warning: ") == 1
    assert "warning: line 3 has no prompt, which 'remote' is to see. Name its field with --prompt-field" in done.stderr
    assert "warning" not in grade(path, "--grader", "exact", "--json").stderr


def test_a_line_without_end_is_set_aside_and_not_held(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "rows.jsonl"
    row = json.dumps(ROWS[0]).encode() + b"\n"
    with path.open("wb") as file:
        file.write(row)
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + row)
    tracemalloc.start()
    with path.open("rb") as file:
        batch = RowReader(
            file, "rows.jsonl", "exact", ResponseFields("response", "gold", "correct", "prompt"), 1
        ).take()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rest = grade(path, "--grader", "math_dapo", "--json")
    assert batch is not None
    assert peak < 40_000_000
    assert [verdict["line"] for verdict in verdicts(rest)] == [1, 3]
    assert "rows.jsonl:2: a line of 50.0 MiB, more than 8" in rest.stderr


def test_a_reader_that_leaves_early_ends_it_quietly(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *ROWS * 2_000)
    process = subprocess.Popen(
        [*COMMAND, str(path), "--grader", "exact", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPO
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
    process = subprocess.Popen([*COMMAND, source, *options], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPO)
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
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=REPO
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
