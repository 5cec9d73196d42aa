"""Where a response says its final answer. Exactly one answer is read, so that naming several is no way to hedge.

In this order: the last closed `\\boxed{…}`; the last line after `Answer:`, `A:` (at a line's start) or `####`; the last
sentence after "the answer is". Boxes that stand side by side ("\\boxed{1} or \\boxed{2}") are one answer, a list.
"""

import re
from typing import NamedTuple

from services.verifier.graders.math_text import is_unit

_TOKEN = re.compile(r"(\\{1,4}(?:boxed|fbox)\s*\{)|\\.|([{}])", re.DOTALL)
_JOINT = re.compile(r"(?:[^\S\n]|\$|\\[()\[\],;:! ]|\\q?quad|~|\\text(?:rm|bf)?\{|\{|\}|[,;]|\band\b|\bor\b)*")
_MARK = re.compile(r"(?:\banswer(?:\*\*|__)?\s*:|^[ \t]*\**A:|####)(?:\*\*)?", re.IGNORECASE | re.MULTILINE)
_DISPLAY = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_LINE = re.compile(r"\s*([^\n]*)")
_SENTENCE = re.compile(r"\banswer\s+is\b\s*:?\s*([^\n]*)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_MATH = re.compile(r"\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)")
_NAME = re.compile(r"\b[a-z]\s*=\s*$", re.IGNORECASE)
_MARKUP = re.compile(r"[\s,:\"'*]+")
# fmt: off
_LEAD = frozenset((
    "so", "thus", "hence", "therefore", "then", "we", "get", "have", "it", "that", "this", "there", "the", "is", "are",
    "be", "equals", "equal", "to", "must", "final", "value", "result", "answer", "find",
    "solution", "number", "total", "sum",
))
# fmt: on
"""Words before a formula that leave it what it is."""
_TRAIL = frozenset(("is", "the", "our", "my", "final", "answer", "solution", "in", "total", "altogether"))
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)


class _Box(NamedTuple):
    start: int
    end: int
    content: str


def final_answer(text: str) -> str:
    """The answer as it is written; empty where there is none. Takes time linear in the text."""
    return boxed_answer(text) or marked_answer(text) or _told_answer(text)


def tagged_answer(text: str) -> str:
    """What the last closed `<answer>…</answer>` holds; empty where there is none."""
    found = _TAGGED.findall(text)
    return found[-1].strip() if found else ""


def boxed_answer(text: str) -> str:
    """Content of the last closed box, or of all boxes that stand beside it, joined by commas."""
    boxes = _boxes(text)
    if not boxes:
        return ""
    found = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _JOINT.fullmatch(text, box.end, found[-1].start):
            break
        found.append(box)
    contents = dict.fromkeys(_unboxed(box.content.strip()) for box in reversed(found))
    return ", ".join(content for content in contents if content)


def _unboxed(content: str) -> str:
    """Of a box in a box, with nothing beside it, what the inner one holds."""
    inner = _boxes(content)
    alone = len(inner) == 1 and inner[0].start == 0 and inner[0].end == len(content)
    return inner[0].content.strip() if alone else content


def _boxes(text: str) -> list[_Box]:
    """Closed boxes that stand in no other box, in order."""
    opened: list[tuple[bool, int, int]] = []
    found: list[_Box] = []
    for token in _TOKEN.finditer(text):
        if token[1] or token[2] == "{":
            opened.append((bool(token[1]), token.start(), token.end()))
        elif token[2] and opened:
            is_box, start, inside = opened.pop()
            if is_box:
                while found and found[-1].start > start:
                    found.pop()
                found.append(_Box(start, token.end(), text[inside : token.start()]))
    return found


def marked_answer(text: str) -> str:
    """What follows the last `Answer:`, `A:` or `####`: a displayed formula, or the rest of the line."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return ""
    mark = marks[-1]
    display = _DISPLAY.match(text, mark.end())
    if display:
        return (display[1] or display[2]).strip()
    line = _LINE.match(text, mark.end())
    if line is None:
        return ""
    return _told_answer(line[1]) or _only_formula(line[1])


def _told_answer(text: str) -> str:
    """What follows the last "the answer is", to the end of the sentence or line."""
    told = _SENTENCE.findall(text)
    return _only_formula(_SENTENCE_END.split(told[-1], maxsplit=1)[0]) if told else ""


def _only_formula(line: str) -> str:
    """Of a line with one formula amid words that change nothing, the formula; else the line, as "-$7$" is no 7."""
    formulas = list(_MATH.finditer(line))
    if len(formulas) == 1:
        (only,) = formulas
        before = _MARKUP.split(_NAME.sub("", line[: only.start()]).lower())
        after = _MARKUP.sub(" ", line[only.end() :]).strip().removesuffix(".").strip()
        if set(before) <= _LEAD | {""} and (set(after.lower().split()) <= _TRAIL or is_unit(after)):
            return (only[1] or only[2]).strip()
    return line.strip()
