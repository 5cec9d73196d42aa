"""Which block of a response is the program: never prose, and of several blocks of Python the one that is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.code.asserts import wanted_names
from services.verifier.graders.reading.code_blocks import choose_program, python_blocks

ADD = "def add(a, b):\n    return a + b"
USE = "print(add(1, 2))"


def fence(source: str, language: str = "", mark: str = "```") -> str:
    return f"{mark}{language}\n{source}\n{mark}\n"


@pytest.mark.parametrize(
    "language", ["python", "Python", "python3", "py", "Python 3", "python3.11", "{.python}", 'py title="a.py"']
)
def test_blocks_of_python_are_known_by_their_language(language: str) -> None:
    assert python_blocks(fence(ADD, language) + fence("ls", "bash")) == [ADD]


@pytest.mark.parametrize("language", ["bash", "text", "output", "json", "cpp", "pycon", "pytb", "plaintext"])
def test_blocks_of_another_language_are_not_run(language: str) -> None:
    assert python_blocks(fence(ADD, "python") + fence(USE, language)) == [ADD]
    assert python_blocks(fence(USE, language)) == []


@pytest.mark.parametrize(
    "prose",
    [
        "This adds two numbers.",
        "3",
        "1 2\n3",
        "hello",
        "Output: 3",
        "[1, 2]",
        "O(n)?",
        "Time: O(n)",
        ">>> add(1, 2)\n3",
        "",
        "-" * 50_000 + "1",
    ],
)
def test_a_block_without_a_language_is_run_only_if_it_is_a_program(prose: str) -> None:
    assert python_blocks(fence(ADD, "python") + fence(prose)) == [ADD]
    assert python_blocks(fence(prose)) == []
    for program in (ADD, USE, "x = int(input())", "import sys", "for i in '12':\n    i", "add = lambda a, b: a"):
        assert python_blocks(fence(prose) + fence(program)) == [program]


def test_a_text_without_a_fence_is_the_program() -> None:
    assert python_blocks(USE) == [USE]
    assert python_blocks(" \n") == []


def test_only_closed_blocks_count() -> None:
    assert python_blocks("```python\nprint(1)") == []
    assert python_blocks(fence(ADD, "python") + "```python\nprint(1)") == [ADD]
    assert python_blocks("```python\nprint(0)\n" + fence(ADD, "python")) == [ADD]


@pytest.mark.parametrize("mark", ["```", "~~~"])
def test_a_fence_at_the_end_of_the_last_line_closes_the_block(mark: str) -> None:
    assert python_blocks(f"{mark}python\n{USE}{mark}") == [USE]
    assert python_blocks(f"So:\n{mark}python\n{ADD}{mark}\nThat is all.\n{fence(USE, 'python')}") == [ADD, USE]
    assert python_blocks(f"  {mark}python\n  {USE}{mark} \n") == [USE]
    for inside in (f"Use {mark}code{mark}\nor {mark}", f"a{mark}\n"):
        text = f"text = '''{inside}'''\n{USE}"
        assert python_blocks(fence(text, "python", mark)) == [text]


def test_fences_are_those_of_markdown() -> None:
    inside = 'def f():\n    """\n    ```\n    f()\n    ```\n    """'
    assert python_blocks(fence(inside, "python")) == [inside]
    longer = "text = '''\n```python\nprint(1)\n```\n'''\nprint(text)"
    assert python_blocks(fence(longer, "python", "````")) == [longer]
    assert python_blocks(fence(ADD, "python", "~~~")) == [ADD]
    listed = "1. So:\n" + "".join(f"   {line}\n" for line in fence(ADD, "python").splitlines())
    assert python_blocks(listed) == [ADD]


@pytest.mark.parametrize(
    ("blocks", "wanted", "chosen"),
    [
        ([ADD, USE], {"add"}, ADD),
        ([USE, ADD, USE], {"add"}, ADD),
        ([ADD, ADD + "\n", USE], {"add"}, ADD + "\n"),
        ([ADD, USE], set(), USE),
        ([ADD, USE], {"sub"}, USE),
        ([ADD, "from solution import add\n" + USE], {"add"}, ADD),
        ([ADD, "add("], {"add"}, ADD),
        (["add = lambda a, b: a + b", USE], {"add"}, "add = lambda a, b: a + b"),
        (
            ["class Solution:\n    def add(self): pass", "print(Solution().add())"],
            {"add"},
            "class Solution:\n    def add(self): pass",
        ),
        ([ADD, "# add(1, 2) is 3\n"], set(), ADD),
        ([ADD, ">>> add(1, 2)\n3"], set(), ADD),
        ([USE, '"""It prints 3."""'], {"add"}, USE),
        ([ADD, "def add(a, b):"], set(), ADD),
        ([ADD, "print(", USE, "# that is all"], set(), USE),
        (["print(", "# nothing"], set(), "# nothing"),
        ([USE, "table = [1, 2]"], {"table"}, "table = [1, 2]"),
        ([ADD, ADD + "\ndef sub(a, b): pass", "def sub(a, b): pass"], {"add", "sub"}, ADD + "\ndef sub(a, b): pass"),
    ],
)
def test_the_block_that_defines_what_is_called_is_the_program(blocks: list[str], wanted: set[str], chosen: str) -> None:
    assert choose_program(blocks, wanted) == chosen


@given(st.text(alphabet="`~ python\n{.}x=1()", max_size=60))
def test_any_text_has_blocks_or_none(text: str) -> None:
    for block in python_blocks(text):
        assert choose_program([block], {"x"}) == block


@pytest.mark.parametrize(
    ("tests", "wanted"),
    [
        ("assert add(1, 2) == len([x for x in 'abc'])", {"add"}),
        ("from solution import add as plus\nassert plus(1, 2) == 3", {"add"}),
        ("import solution\nassert solution.add(1, 2) == math.floor(3.5)", {"add", "solution"}),
        ("def check(candidate):\n    assert candidate(1) == 1\ncheck(f)", {"f"}),
        ("assert (", set()),
    ],
)
def test_tests_want_what_they_use_and_do_not_bind(tests: str, wanted: set[str]) -> None:
    assert wanted_names(tests) == wanted
