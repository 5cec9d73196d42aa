"""`reasoning_gym`: every supported task takes its own answer and no other row's, and evaluates no response."""

import ast
import decimal
import inspect
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from dapo.data import DatasetError
from dapo.spec.tree.graders import ReasoningGymGrader
from services.verifier.graders import build_grader
from services.verifier.graders.reasoning_gym import SUPPORTED, encode_gold
from services.verifier.tools.reasoning_rows import CannotGenerate, generate_rows, main, write

reasoning_gym = pytest.importorskip("reasoning_gym", reason="pip install '.[reasoning-gym]'")

ROWS = 6
SLOW = {"futoshiki"}
"""To generate: a second and more a row."""


@pytest.fixture(scope="module")
def grade():
    return build_grader(ReasoningGymGrader())


@pytest.mark.parametrize("task", sorted(SUPPORTED - SLOW))
def test_a_task_takes_its_own_answer_and_no_other(task: str, grade) -> None:
    rows = list(generate_rows(task, ROWS, seed=3))
    for row in rows:
        own = grade(f"I think 1.\n<answer>{row['answer']}</answer>", row["gold"])
        assert (own.correct, own.score, own.reason) == (True, 1.0, "passed")
        for text in ("", "<answer></answer>", "<answer> </answer>", "I do not know", f"It is {row['answer']}"):
            assert grade(text, row["gold"]).reason == "no_answer"
        both = "\n".join(f"<answer>{other['answer']}</answer>" for other in rows if other["answer"] != row["answer"])
        assert not grade(both, row["gold"]).correct


def test_decimals_are_as_exact_after_a_task_as_before() -> None:
    before = decimal.getcontext().prec
    assert list(generate_rows("decimal_arithmetic", 2, seed=0))
    assert decimal.getcontext().prec == before


def _primes(low: int, high: int) -> int:
    return sum(all(one % by for by in range(2, math.isqrt(one) + 1)) for one in range(max(low, 2), high + 1))


CHECKS = {
    "gcd": lambda m: math.gcd(*m["numbers"]),
    "lcm": lambda m: math.lcm(*m["numbers"]),
    "count_bits": lambda m: m["number"].bit_count(),
    "count_primes": lambda m: _primes(m["start"], m["end"]),
    "products": lambda m: math.prod(map(int, m["expression"].split("*"))),
    "chain_sum": lambda m: sum(map(int, m["expression"].replace("- ", "+ -").replace(" -", "-").split("+"))),
    "spell_backward": lambda m: m["word"][::-1],
    "word_sequence_reversal": lambda m: ", ".join(reversed(m["words"])),
    "word_sorting": lambda m: ", ".join(sorted(m["original_words"], reverse=m["direction"] == "descending")),
    "isomorphic_strings": lambda m: _are_isomorphic(*m["words"]),
    "ransom_note": lambda m: Counter(m["ransom_note"]) <= Counter(m["magazine"]),
    "letter_counting": lambda m: "".join(m["span"]).lower().count(m["target_letter"].lower()),
    "base_conversion": lambda m: _in_base(int(m["source_repr"], m["source_base"]), m["target_base"]),
    "prime_factorization": lambda m: " × ".join(map(str, _factors(m["number"]))),
}
"""Gold answers computed anew from what the question says."""


def _are_isomorphic(one: str, other: str) -> bool:
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


def _factors(number: int) -> list[int]:
    for by in range(2, math.isqrt(number) + 1):
        if number % by == 0:
            return [by, *_factors(number // by)]
    return [number]


def _in_base(number: int, base: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, base)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


@pytest.mark.parametrize("task", sorted(CHECKS))
def test_the_gold_answers_of_a_task_are_right(task: str) -> None:
    for row in generate_rows(task, 40, seed=0):
        metadata = json.loads(row["gold"])["metadata"]
        assert str(CHECKS[task](metadata)) == row["answer"], metadata


def _follows(premises: list[str], conclusion: str) -> bool:
    """In every world of eight kinds of things, of which each exists or not."""
    terms = sorted({term for one in (*premises, conclusion) for term in _syllogism(one)[1:]})
    kinds = [frozenset(kind) for size in range(len(terms) + 1) for kind in itertools.combinations(terms, size)]
    worlds = itertools.chain.from_iterable(itertools.combinations(kinds, size) for size in range(len(kinds) + 1))
    return all(_holds(conclusion, w) for w in worlds if all(_holds(one, w) for one in premises))


def _syllogism(statement: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"(All|No|Some) (.+?) are (not )?(.+)", statement)
    assert match
    return match[1] + " not" * bool(match[3]), match[2], match[4]


def _holds(statement: str, world: tuple[frozenset[str], ...]) -> bool:
    form, subject, predicate = _syllogism(statement)
    both = any(subject in one and predicate in one for one in world)
    apart = any(subject in one and predicate not in one for one in world)
    some = any(subject in one for one in world)
    return {"All": not apart and some, "No": not both, "Some": both, "Some not": apart}[form]


def test_syllogisms_are_refused_as_their_gold_answers_are_wrong() -> None:
    """Also where "All" is taken to say that there are some, as tradition does."""
    wrong = 0
    for row in reasoning_gym.create_dataset("syllogism", seed=0, size=500):
        given = row["metadata"]
        follows = _follows([given["premise1"], given["premise2"]], given["conclusion"])
        wrong += follows != (row["answer"] == "Yes")
    assert wrong == 59
    with pytest.raises(CannotGenerate, match="not supported"):
        generate_rows("syllogism", 3, seed=0)


def test_listing_all_candidates_is_no_way_to_hedge(grade) -> None:
    for row in generate_rows("course_schedule", 4, seed=1):
        for listing in ("True False", "True or False", "False, True"):
            verdict = grade(f"<answer>{listing}</answer>", row["gold"])
            assert (verdict.correct, verdict.score) == (False, 0.0)


FORBIDDEN = {"eval", "exec", "parse_expr", "sympify", "compile", "literal_eval", "__import__", "open", "system"}


@pytest.mark.parametrize("task", sorted(SUPPORTED))
def test_no_supported_rule_evaluates_what_it_scores(task: str) -> None:
    """Every function of the library that the rule may reach, by its names."""
    kind, _ = reasoning_gym.factory.DATASETS[task]
    waiting, seen = [kind.score_answer], set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not FORBIDDEN & (names | attributes), f"{task}: {function}"
        reached = [getattr(kind, name, None) for name in attributes]
        reached += [getattr(reasoning_gym.utils, name, None) for name in attributes]
        reached += [function.__globals__.get(name) for name in names]
        waiting += [one for one in reached if inspect.isfunction(one) and one.__module__.startswith("reasoning_gym")]
    if task in HELPED:
        assert len(seen) > 1, f"{task}: the functions that its rule calls were not followed"


HELPED = {"chain_sum", "cryptarithm", "jugs", "knights_knaves", "prime_factorization", "shortest_path"}
"""Their rules call other functions, which the test above must have reached."""


@pytest.mark.parametrize("task", ["countdown", "game_of_life_halting", "number_sorting", "n_queens", "nonsense", ""])
def test_other_tasks_are_refused(task: str, grade) -> None:
    with pytest.raises(CannotGenerate, match=r"is not supported.*Take one of ab, acre"):
        generate_rows(task, 1, seed=0)
    gold = encode_gold(task, {"answer": "1", "metadata": {}})
    assert grade("<answer>1</answer>", gold).reason == "bad_gold"


@pytest.mark.parametrize("gold", ["", "3", "{}", '{"task": ["gcd"], "answer": "1", "metadata": {}}', "[" * 5000])
def test_an_unreadable_gold_is_a_failure(gold: str, grade) -> None:
    assert grade("<answer>1</answer>", gold).reason == "bad_gold"


@pytest.mark.parametrize("answer", ["١٢", "1２", "1\u200b", "9" * 5000, "1e999999999", "[" * 5000, "\ud800"])
@pytest.mark.parametrize("task", ["chain_sum", "prime_factorization", "group_anagrams", "jugs", "decimal_arithmetic"])
def test_a_hostile_answer_is_wrong(task: str, answer: str, grade) -> None:
    (row,) = generate_rows(task, 1, seed=2)
    verdict = grade(f"<answer>{answer}</answer>", row["gold"])
    assert (verdict.correct, verdict.failed) == (False, False)


def test_rows_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert write(generate_rows("gcd", 5, seed=1), first, force=False) == 5
    write(generate_rows("gcd", 5, seed=1), second, force=False)
    assert first.read_bytes() == second.read_bytes()
    row = json.loads(first.read_text().splitlines()[0])
    assert set(row) == {"prompt", "gold", "grader", "answer"}
    with pytest.raises(DatasetError, match=r"a\.jsonl is there already: give --force"):
        write(generate_rows("gcd", 5, seed=2), first, force=False)
    write(generate_rows("gcd", 5, seed=2), first, force=True)
    assert first.read_bytes() != second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


COMMAND = [sys.executable, "-m", "dapo.cli.main", "data", "reasoning-gym"]


@pytest.mark.parametrize(
    ("task", "out", "says"),
    [
        ("countdown", "out.jsonl", "the task 'countdown' is not supported"),
        ("gcd", "out.csv", "out.csv must end in .jsonl"),
        ("gcd", "none/out.jsonl", "none is not a folder: make it first"),
        ("gcd", "there.jsonl", "there.jsonl is there already: give --force"),
    ],
)
def test_a_refusal_leaves_nothing_behind(tmp_path: Path, task: str, out: str, says: str) -> None:
    (tmp_path / "there.jsonl").write_text("precious")
    done = subprocess.run([*COMMAND, task, str(tmp_path / out)], capture_output=True, text=True)
    assert done.returncode == 2
    assert says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.jsonl"]
    assert (tmp_path / "there.jsonl").read_text() == "precious"


def test_a_missing_library_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setattr(sys, "argv", ["reasoning_rows", "gcd", str(tmp_path / "out.jsonl")])
    assert main() == 2
    assert "the library reasoning-gym is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's end."""
    out = tmp_path / "out.jsonl"
    done = subprocess.run(["prlimit", "--fsize=2000", *COMMAND, "gcd", str(out)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {out} cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    process = subprocess.Popen([*COMMAND, "gcd", str(out), "--rows", "100000000"], stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert list(tmp_path.iterdir())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "error: interrupted\n")
    assert list(tmp_path.iterdir()) == []
