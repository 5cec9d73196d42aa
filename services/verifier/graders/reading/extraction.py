"""Where a response says its final answer. Exactly one answer is read, so that naming several is no way to hedge.

The last statement counts, whichever form it has: a closed `\\boxed{…}`, `<answer>…</answer>`, the line after `Answer:`,
`A:` (at a line's start) or `####`, the sentence after "the answer is". What only looks like one (a heading behind
`####`, "the answer is correct", "Answer: see above") counts where nothing else does. After an answer a sentence counts
only where it states another one: "the answer is prime" is said about the 5 before it. Boxes that stand side by side
("\\boxed{1} or \\boxed{2}") are one answer, a list.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from services.verifier.graders.reading.phrases import (
    MARKUP,
    MATH,
    WORDS,
    corrects,
    is_value,
    points_elsewhere,
    without_afterthought,
    without_explanation,
)
from services.verifier.graders.reading.units import is_unit

_TOKEN = re.compile(r"(\\{1,4}(?:boxed|fbox)\s*\{)|\\{1,4}boxed(?![a-zA-Z{])[^\S\n]*|\\.|([{}])", re.DOTALL)
_FIRST_BOX = re.compile(r"\\{1,4}(?:boxed|fbox)")
_BARE = re.compile(r"([+-]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?%?|[A-Za-z]+)(?=\s*(?:[.,;:!]?(?:\s|$)|\$|\\[)\]]))")
"""Of a box without braces its first word or number, where nothing is joined to it …"""
_BARE_REST = re.compile(r"[^$\n]*?(?=\$|\n|\\[)\]]|\Z)")
"""… else all to the end of the formula."""
_JOINED = re.compile(r"\s*[-+*/^=<>_(]")
_JOINT = re.compile(r"(?:[^\S\n]|\$|\\[()\[\],;:! ]|\\q?quad|~|\\text(?:rm|bf)?\{|\{|\}|[,;]|\band\b|\bor\b)*")
_ANSWER = re.compile(
    r"[Aa][Nn][Ss][Ww][Ee][Rr](?<![A-Za-z].{6})[*_`]{0,3}(?:\s*[:：]|\s+(is)\b[*_`]{0,3}\s*[:：]?)(?:\*\*|__|`)?"
)
"""It begins with a set of characters, which is what makes the search fast."""
_LETTER = re.compile(r"[Aa][*_]{0,3}[:：](?:\*\*|__|`)?")
_HASHES = re.compile(r"####(?<!#####)(?!#)[*_`]{0,3}")
_TRIED = 20
"""Of what looks like an answer, from the end."""
_WITHIN = 80
"""Characters that are read before a label."""
_BEFORE_LABEL = re.compile(
    r"(?:[\s#>*_`•-]|\b(?:the|my|our|so|thus|hence|therefore|final|correct|and|is|[0-9]+[.)])\b)*,?\s*", re.IGNORECASE
)
_DISPLAY = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_LINE = re.compile(r"\s*([^\n]*)")
_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.。][*_`\"']{0,3}(?:\s|$)")
_NAME = re.compile(r"\b[a-z]\s*=\s*$", re.IGNORECASE)
_BEGINS_WITH_VALUE = re.compile(
    r"[*_`]*(?:[-+−–]?\s*[0-9.$\\(\[{√π½⅓¼]|[A-Za-z](?![A-Za-z])|(?:yes|no|true|false)\b)", re.I
)
_NUMBERED = re.compile(r"[0-9]+[.)]\s+[A-Za-z]")
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


class _Statement(NamedTuple):
    start: int
    content: str
    certain: bool = True
    """It counts as an answer also where another one stands before it."""
    in_passing: bool = False
    """By a sentence, "the answer is …", which may also say something about the answer before it."""


class _Box(NamedTuple):
    start: int
    end: int
    content: str


def final_answer(text: str) -> str:
    """The answer as it is written; empty where there is none. Takes time linear in the text."""
    boxes = _boxes(text)
    tag = _last_tag(text)
    spans = [(box.start, box.end) for box in boxes[-1:]] + [tag.span(1) for tag in (tag,) if tag]
    found = [one for one in _stated(text) if not any(start <= one.start < end for start, end in spans)]
    if boxes:
        found.append(_Statement(boxes[-1].start, _beside(boxes, text)))
    if tag:
        found.append(_Statement(tag.start(1), _of_tag(tag[1])))
    last: _Statement | None = None
    for one in sorted((one for one in found if one.content), key=lambda one: (one.certain, one.start)):
        if last is None or not (last.certain and one.in_passing) or corrects(one.content, last.content):
            last = one
    return last.content if last else ""


def answer_line(text: str) -> str:
    """The last answer from the first `Answer:` on; empty where there is no such label."""
    if "answer" not in text.lower():  # ten times as fast as the search
        return ""
    label = next((one for one in _ANSWER.finditer(text) if not one[1]), None)
    return final_answer(text[label.start() :]) if label else ""


def tagged_answer(text: str) -> str:
    """What the last closed `<answer>…</answer>` holds; empty where there is none."""
    tag = _last_tag(text)
    return tag[1].strip() if tag else ""


def _last_tag(text: str) -> re.Match[str] | None:
    return next(reversed(list(_TAGGED.finditer(text))), None) if "<" in text else None


def _of_tag(content: str) -> str:
    boxes = _boxes(content)
    if boxes:
        return _beside(boxes, content)
    label = _ANSWER.search(content)
    if label and label.start() <= _WITHIN and _BEFORE_LABEL.fullmatch(content[: label.start()]):
        return _told(0, content[label.end() :].strip()).content
    return without_explanation(content.strip())


def _beside(boxes: list[_Box], text: str) -> str:
    """Content of the last box, or of all boxes that stand beside it, joined by commas."""
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
    """Closed boxes that stand in no other box, and boxes without braces, in order."""
    opened: list[tuple[bool, int, int]] = []
    found: list[_Box] = []
    first = _FIRST_BOX.search(text) if "box" in text else None
    if first is None:
        return found
    for token in _TOKEN.finditer(text, first.start()):
        if token[1] or token[2] == "{":
            opened.append((bool(token[1]), token.start(), token.end()))
        elif token[2] and opened:
            is_box, start, inside = opened.pop()
            if is_box:
                while found and found[-1].start > start:
                    found.pop()
                found.append(_Box(start, token.end(), text[inside : token.start()]))
        elif not token[2] and "boxed" in token[0]:
            found.append(_bare_box(text, token.start(), token.end()))
    return found


def _bare_box(text: str, start: int, inside: int) -> _Box:
    r"""`\boxed 42`, as if braces stood around what follows."""
    word = _BARE.match(text, inside)
    if word is None or _JOINED.match(text, word.end()):
        word = _BARE_REST.match(text, inside)
    return _Box(start, word.end(), word[0]) if word else _Box(start, inside, "")


def _stated(text: str) -> Iterator[_Statement]:
    """What follows a label, from the end of the text to the last certain answer that is more than a sentence."""
    labels = list(_ANSWER.finditer(text))
    if "####" in text:
        labels += _HASHES.finditer(text)
    labels += [one for one in _LETTER.finditer(text) if _begins_line(text, one.start())]
    for label in islice(sorted(labels, key=re.Match.start, reverse=True), _TRIED):
        formula, line = _after(text, label.end())
        if formula:
            found = _Statement(label.end(), formula)
        elif label.re is _ANSWER and label[1]:
            found = _told(label.end(), line)
        else:
            found = _marked(text, label, line)
        yield found
        if found.content and found.certain and not found.in_passing:
            return


def _begins_line(text: str, start: int) -> bool:
    return not text[text.rfind("\n", 0, start) + 1 : start].strip(" \t*_")


def _marked(text: str, label: re.Match[str], line: str) -> _Statement:
    """Of the line after `Answer:`, `A:` or `####`. A label does not stand amid a sentence, and `####` is no heading."""
    inner = next((one for one in _ANSWER.finditer(line) if one[1]), None)
    content = _told(0, line[inner.end() :]).content if inner else _only_formula(without_explanation(line))
    if points_elsewhere(content):
        certain = False
    elif label.re is _LETTER:
        certain = True
    elif label.re is _ANSWER:
        certain = not WORDS.search(content) or _BEFORE_LABEL.fullmatch(_before(text, label.start())) is not None
    else:
        certain = bool(_BEGINS_WITH_VALUE.match(content)) and not _NUMBERED.match(content) and is_value(content)
    return _Statement(label.end(), content, certain)


def _before(text: str, start: int) -> str:
    """What stands before it in its line."""
    return text[max(text.rfind("\n", 0, start) + 1, start - _WITHIN) : start]


def _told(start: int, line: str) -> _Statement:
    """Of what follows "the answer is" the sentence, without what introduces the answer and what is said about it."""
    sentence = _SENTENCE_END.split(without_explanation(line), maxsplit=1)[0]
    content = _only_formula(without_afterthought(sentence))
    return _Statement(start, content, is_value(content), True)


def _after(text: str, start: int) -> tuple[str, str]:
    """The displayed formula that begins there, and the line."""
    display = _DISPLAY.match(text, start)
    line = _LINE.match(text, start)
    return (display[1] or display[2]).strip() if display else "", _TAG.split(line[1])[0] if line else ""


def _only_formula(line: str) -> str:
    """Of a line with one formula amid words that change nothing, the formula; else the line, as "-$7$" is no 7."""
    whole = MATH.fullmatch(line) if line.startswith(("$", "\\(")) else None
    if whole:
        return (whole[1] or whole[2]).strip()
    formulas = list(MATH.finditer(line)) if "$" in line or "\\(" in line else []
    if len(formulas) == 1:
        (only,) = formulas
        before = MARKUP.split(_NAME.sub("", line[: only.start()]).lower())
        after = MARKUP.sub(" ", line[only.end() :]).strip().removesuffix(".").strip()
        if set(before) <= _LEAD | {""} and (set(after.lower().split()) <= _TRAIL or is_unit(after)):
            return (only[1] or only[2]).strip()
    return line.strip()
