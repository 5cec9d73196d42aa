"""`code` on programs that try to forge the verdict of their tests, or to see what these expect."""

import time

import pytest

from dapo.spec.tree.graders import CodeGrader
from services.verifier.graders import GradeFunction, build_grader
from tests.support.verifier.code import ASSERTS, fenced, gold

TIMEOUT_S = 2.0
MARGIN_S = 3.0


@pytest.fixture(scope="module")
def grade() -> GradeFunction:
    return build_grader(CodeGrader(timeout_s=TIMEOUT_S, memory_mib=256))


EVIL = """
class Evil(int):
    def _yes(self, *args): return True
    __eq__ = __ge__ = __gt__ = __le__ = __lt__ = __contains__ = __bool__ = __instancecheck__ = _yes
    def __ne__(self, other): return False
    def _self(self, *args): return self
    __sub__ = __rsub__ = __add__ = __radd__ = __abs__ = __neg__ = _self
    def __hash__(self): return 6
    def __float__(self): return 0.0
    def __getattr__(self, name): return self
    def __call__(self, *args): return self
"""


@pytest.mark.parametrize(
    "program",
    [
        "",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import os\ndef area(a, b): os._exit(0)",
        "def area(a, b): raise SystemExit(0)",
        "def area(a, b): raise KeyboardInterrupt",
        "def area(a, b): raise AssertionError",
        "def area(a, b): raise ModuleNotFoundError('numpy')",
        "import math\ndef area(a, b): return math",
        EVIL + "def area(a, b): return Evil()",
        EVIL.replace("(int)", "") + "def area(a, b): return Evil()",
        EVIL.replace("(int)", "") + "area = Evil",
        EVIL.replace("(int)", "") + "area = Evil()",
        "import builtins\nbuiltins.AssertionError = None\nbuiltins.abs = builtins.isinstance = lambda *a: 0\n"
        "def area(a, b): return 0",
        "def abs(x): return 0\ndef isinstance(*a): return True\ndef area(a, b): return 0",
        "import sys\nfor f in list(sys._current_frames().values()):\n    f.f_globals.clear()\ndef area(a, b): return 0",
        "import gc\nfor x in gc.get_objects():\n    if isinstance(x, dict): x['passed'] = x['tests'] = 99\n"
        "def area(a, b): return 0",
        "import os\nfor n in range(9):\n    try: os.write(n, b'true\\n' * 9)\n    except OSError: pass\n"
        "def area(a, b): return 0",
        "import os\nos.write(5, b'{\"names\": [\"area\"]}\\n')\n"
        "os.write(5, b'{\"value\": true, \"changed\": [null, null, null]}\\n' * 50)\ndef area(a, b): return 0",
        "import os\nos.write(5, b'{\"names\": {}}\\n' + b'[' * 100000 + b'\\n')\ndef area(a, b): return 0",
        "import os\nwhile True: os.write(5, b'9' * 60000)",
        "import os\nos.close(5)\ndef area(a, b): return 0",
        "def area(a, b):\n    x = []\n    x.append(x)\n    return x",
        "def area(a, b): return print",
        "def area(a, b): return '6'",
        "def area(a, b): return [6]",
        "def area(a, b): return float('nan')",
        "import time\ndef area(a, b): time.sleep(99)",
    ],
)  # fmt: skip
def test_no_verdict_is_forged(grade: GradeFunction, program: str) -> None:
    began = time.monotonic()
    verdict = grade(fenced(program or "pass"), gold(asserts=ASSERTS))
    assert time.monotonic() - began < TIMEOUT_S + MARGIN_S
    assert not verdict.correct
    assert not verdict.failed, verdict
    assert verdict.score <= 1 / 6, verdict
    honest = grade(fenced("def area(a, b): return a * b"), gold(asserts=ASSERTS))
    assert honest.correct, honest


def test_expected_outputs_and_asserts_are_nowhere_in_the_program(grade: GradeFunction) -> None:
    """A program that searches all its memory for what it should print, or for the tests."""
    search = """
import ctypes, gc, os, sys
def seen():
    needle = "".join(map(chr, {needle}))
    for one in gc.get_objects():
        if isinstance(one, (str, dict, list, tuple)) and needle in repr(one).replace("needle", ""):
            return True
    frame = sys._getframe()
    while frame:
        if needle in repr(frame.f_globals) + repr(frame.f_code.co_consts): return True
        frame = frame.f_back
    for n in range(64):
        try:
            if needle.encode() in os.pread(n, 1 << 20, 0): return True
        except OSError: pass
    return False
"""
    secret = "expected-7391"
    program = search.format(needle=[ord(letter) for letter in secret])
    for _ in range(2):  # the second time, the template has handled the secret once
        verdict = grade(
            fenced(program + "print(seen())"),
            gold(tests=[{"input": "", "output": secret}, {"input": "", "output": "False"}]),
        )
        assert verdict.score == 0.5, verdict
        printed = "import sys, os\nprint(secret, file=sys.stderr, flush=True)\nos.write(0, secret.encode())\n"
        asserts = f'secret = "{secret}"\n{printed}assert seen() is False\n'
        verdict = grade(fenced(program), gold(asserts=asserts))
        assert verdict.correct, verdict


def test_what_an_object_is_computed_with_it_is_not_told(grade: GradeFunction) -> None:
    program = """
told = []
class Spy:
    def __sub__(self, other):
        told.append(other)
        return self
    __add__ = __mul__ = __pow__ = __mod__ = __and__ = __sub__
def f(): return Spy()
def seen(): return told
"""
    asserts = """
for sign in "-+*%&", ["**"]:
    for one in sign:
        try:
            eval(f"f() {one} 7391")
        except TypeError:
            pass
assert seen() == []
f() - f()
assert len(seen()) == 1
"""
    verdict = grade(fenced(program), gold(asserts=asserts))
    assert verdict.correct, verdict


@pytest.mark.parametrize("imports", ["", "from solution import *\n"])
def test_no_program_replaces_the_modules_of_the_tests(imports: str) -> None:
    pytest.importorskip("numpy")
    grade = build_grader(CodeGrader(timeout_s=20, modules=["numpy"]))
    fake = "= types.SimpleNamespace(allclose=lambda *a: True, isclose=lambda *a: True)\n"
    program = f"import types\nnp {fake}math {fake}def f(x): return [0, 0]"
    tests = f"import numpy as np\n{imports}assert np.allclose(f(2), [4, 5])\nassert math.isclose(f(2)[0], 4)"
    verdict = grade(fenced(program), gold(asserts=tests))
    assert (verdict.score, verdict.failed) == (0, False), verdict
    assert grade(fenced("def f(x): return [4, 5]"), gold(asserts=tests)).correct
    verdict = grade(fenced(program), gold(asserts="assert np.allclose(f(2), [4, 5])"))
    assert verdict.reason == "bad_gold"
    assert "use np without importing it" in verdict.extracted
