"""The program among the fenced blocks of a response."""

import ast
import re
from collections.abc import Collection, Iterator

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`]*)")
_LANGUAGE = re.compile(r"[{.\s]*([\w+#.-]*)")
_PYTHON = re.compile(r"(?:python|py|pypy)[0-9.]*")
_MAX_INDENTATION = 3
"""A fence that stands further in than the opening one is a line of the block (CommonMark)."""
_VALUES = (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign)


def python_blocks(text: str) -> list[str]:
    """Closed fenced blocks of Python in order; the whole text where it has no fence at all.

    A block is of Python if its fence says so, or says nothing and it is a program: it parses, and does more than to
    write values down, as `42` or `Output: 3` do.
    """
    blocks = list(_blocks(text))
    if not blocks:
        return [text] if text.strip() else []
    return [source for language, source in blocks if _is_python(language, source)]


def choose_program(blocks: list[str], wanted: Collection[str]) -> str:
    """The last of these blocks that defines most of the `wanted` names, so the last one where none is wanted.

    One that does nothing (comments alone), or is no program (a doctest's `>>> f(3)`), is chosen only where all are so.
    """
    if len(blocks) == 1:
        return blocks[0]
    parsed = map(_statements, blocks)
    ranks = [(len(_definitions(statements) & set(wanted)), _do_something(statements)) for statements in parsed]
    return blocks[max(range(len(blocks)), key=lambda index: (ranks[index], index))]


def _blocks(text: str) -> Iterator[tuple[str | None, str]]:
    """(language, content) of each closed block, its indentation taken off; language None for one that is not closed.

    A block is closed by a fence, or at the end of its last line of code, "print(3)```".
    """
    lines: list[str] = []
    mark, language, indentation, tried = "", "", 0, False
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line.rstrip().expandtabs(4))
        deep = bool(mark) and fence is not None and len(fence[1]) > indentation + _MAX_INDENTATION
        if fence is None or deep or (mark and not fence[2].startswith(mark)):
            lines.append(_without(line, indentation))
            code = _before_mark(line, mark)
            if code and not tried:
                source = "\n".join([*lines[:-1], _without(code, indentation)])
                tried = _statements(source) is None  # A parse for each such line could take long.
                if not tried:
                    yield language, source
                    mark, indentation = "", 0
        elif mark and not fence[3]:
            yield language, "\n".join(lines)
            mark, indentation = "", 0
        else:
            if mark:  # The block before was never closed.
                yield None, ""
            lines, mark, indentation, tried = [], fence[2], len(fence[1]), False
            language = _LANGUAGE.match(fence[3])[1].lower()  # type: ignore[index]
    if mark:
        yield None, ""


def _before_mark(line: str, mark: str) -> str:
    """What stands before a closing mark at the end of a line that has no other; else empty."""
    line = line.rstrip()
    code = line.rstrip(mark[0]) if mark else ""
    closes = bool(code.strip()) and line[len(code) :].startswith(mark) and mark not in code
    return code if closes else ""


def _without(line: str, indentation: int) -> str:
    found = len(line) - len(line.lstrip(" \t"))
    return line[min(found, indentation) :]


def _is_python(language: str | None, source: str) -> bool:
    if not language:
        return language is not None and _do_something(_statements(source))
    return _PYTHON.fullmatch(language) is not None and bool(source.strip())


def _statements(source: str) -> list[ast.stmt] | None:
    """None for what is no Python."""
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _do_something(statements: list[ast.stmt] | None) -> bool:
    return any(not isinstance(one, (*_VALUES, ast.Pass)) or _computes(one) for one in statements or ())


def _computes(statement: ast.stmt) -> bool:
    value = getattr(statement, "value", None)
    return value is not None and any(isinstance(node, (ast.Call, ast.Lambda)) for node in ast.walk(value))


def _definitions(statements: list[ast.stmt] | None) -> set[str]:
    """Names that a program defines at its top level, and the methods of its class `Solution`."""
    found = set()
    for one in statements or ():
        match one:
            case ast.ClassDef(name="Solution", body=body):
                found |= {"Solution", *(method.name for method in body if isinstance(method, ast.FunctionDef))}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                found.add(name)
    return found
