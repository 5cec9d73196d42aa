"""Where a response says its final answer. Exactly one answer is read, so that naming several is no way to hedge.

The last statement counts, whichever form it has: a closed `\\boxed{…}`, `<answer>…</answer>`, the line after `Answer:`,
`A:` (at a line's start) or `####`, the sentence after "the answer is". What only looks like one (a heading behind
`####`, "the answer is correct") counts where nothing else does. Boxes that stand side by side
("\\boxed{1} or \\boxed{2}") are one answer, a list.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from services.verifier.graders.math_text import is_unit

_TOKEN = re.compile(r"(\\{1,4}(?:boxed|fbox)\s*\{)|\\{1,4}boxed(?![a-zA-Z{])[^\S\n]*|\\.|([{}])", re.DOTALL)
_BARE = re.compile(r"([+-]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?%?|[A-Za-z]+)(?=\s*(?:[.,;:!]?(?:\s|$)|\$|\\[)\]]))")
"""Of a box without braces its first word or number, where nothing is joined to it …"""
_BARE_REST = re.compile(r"[^$\n]*?(?=\$|\n|\\[)\]]|\Z)")
"""… else all to the end of the formula."""
_JOINED = re.compile(r"\s*[-+*/^=<>_(]")
_JOINT = re.compile(r"(?:[^\S\n]|\$|\\[()\[\],;:! ]|\\q?quad|~|\\text(?:rm|bf)?\{|\{|\}|[,;]|\band\b|\bor\b)*")
_MARK = re.compile(
    r"(?:\b(answer)[*_`]{0,3}\s*[:：]|^[ \t]*[*_]{0,3}(A)[*_]{0,3}[:：]|(?<!#)####(?!#))[*_`]{0,3}",
    re.IGNORECASE | re.MULTILINE,
)
_TRIED = 20
"""Of what looks like an answer, from the end."""
_BEFORE_LABEL = re.compile(
    r"(?:[\s#>*_`•-]|\b(?:the|my|our|so|thus|hence|therefore|final|correct|and|is|[0-9]+[.)])\b)*,?\s*"
)
_DISPLAY = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_LINE = re.compile(r"\s*([^\n]*)")
_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_TOLD = re.compile(r"\banswer[*_`]{0,3}\s+is\b[*_`]{0,3}\s*[:：]?[*_`]{0,3}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.。][*_`\"']{0,3}(?:\s|$)")
_AFTERTHOUGHT = re.compile(
    r"(?<=[0-9$})\]a-z*])(?:,\s+|\s+\(?)(?:which|since|because|as|so|where|this)\b", re.IGNORECASE
)
_INTRODUCED = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|indeed|simply|just|exactly|equal\s+to|option|choice)\b[\s,:]*)+", re.IGNORECASE
)
_MATH = re.compile(r"\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)")
_NAME = re.compile(r"\b[a-z]\s*=\s*$", re.IGNORECASE)
_MARKUP = re.compile(r"[\s,:\"'*_`]+")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_VALUE = re.compile(r"[0-9$\\=^√π∞½⅓¼]")
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
_OF_THE_ANSWER = frozenset((
    "correct", "right", "wrong", "incorrect", "boxed", "given", "above", "below", "verified", "confirmed", "consistent",
    "reasonable", "unique", "clear", "unknown", "there", "this", "that", "it", "valid", "integer", "positive",
    "negative", "complete", "done", "final", "plausible", "obvious", "found", "not", "as", "in", "an", "the", "same",
))  # fmt: skip
"""What is said about an answer, and is none."""
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)


class _Statement(NamedTuple):
    start: int
    content: str
    certain: bool = True
    """It counts as an answer also where another one stands before it."""


class _Box(NamedTuple):
    start: int
    end: int
    content: str


def final_answer(text: str) -> str:
    """The answer as it is written; empty where there is none. Takes time linear in the text."""
    boxes = _boxes(text)
    tag = _last_tag(text)
    spans = [(box.start, box.end) for box in boxes[-1:]] + [tag.span(1) for tag in (tag,) if tag]
    found = [one for one in (*_marks(text), *_told(text)) if not any(start <= one.start < end for start, end in spans)]
    if boxes:
        found.append(_Statement(boxes[-1].start, _beside(boxes, text)))
    if tag:
        found.append(_Statement(tag.start(1), _of_tag(tag[1])))
    stated = [one for one in found if one.content]
    last = max(stated, key=lambda one: (one.certain, one.start), default=None)
    return last.content if last else ""


def tagged_answer(text: str) -> str:
    """What the last closed `<answer>…</answer>` holds; empty where there is none."""
    tag = _last_tag(text)
    return tag[1].strip() if tag else ""


def _last_tag(text: str) -> re.Match[str] | None:
    return next(reversed(list(_TAGGED.finditer(text))), None)


def _of_tag(content: str) -> str:
    boxes = _boxes(content)
    return _beside(boxes, content) if boxes else content.strip()


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
    for token in _TOKEN.finditer(text):
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


def _marks(text: str) -> Iterator[_Statement]:
    """What follows `Answer:`, `A:` or `####`, a displayed formula or the line: from the end to the last certain one."""
    for mark in islice(reversed(list(_MARK.finditer(text))), _TRIED):
        formula, line = _after(text, mark.end())
        told = next(_told(line), None)
        content = formula or (told.content if told else _only_formula(line))
        certain = bool(formula) or _is_certain(text, mark, content)
        yield _Statement(mark.end(), content, certain)
        if content and certain:
            return


def _is_certain(text: str, mark: re.Match[str], content: str) -> bool:
    """A label does not stand amid a sentence, and `####` is no heading."""
    if mark[2]:
        return True
    if mark[1]:
        line = text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()]
        return not _WORDS.search(content) or _BEFORE_LABEL.fullmatch(line[-80:]) is not None
    return bool(_BEGINS_WITH_VALUE.match(content)) and not _NUMBERED.match(content) and _is_value(content)


def _told(text: str) -> Iterator[_Statement]:
    """What follows "the answer is", to the end of the sentence or line: from the end to the last certain one."""
    for told in islice(reversed(list(_TOLD.finditer(text))), _TRIED):
        formula, line = _after(text, told.end())
        sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
        introduced = _INTRODUCED.match(sentence)
        sentence = _AFTERTHOUGHT.split(sentence[introduced.end() :] if introduced else sentence, maxsplit=1)[0]
        content = formula or _only_formula(sentence)
        certain = bool(formula) or _is_value(content)
        yield _Statement(told.end(), content, certain)
        if content and certain:
            return


def _after(text: str, start: int) -> tuple[str, str]:
    """The displayed formula that begins there, and the line."""
    display = _DISPLAY.match(text, start)
    line = _LINE.match(text, start)
    return (display[1] or display[2]).strip() if display else "", _TAG.split(line[1])[0] if line else ""


def _is_value(content: str) -> bool:
    """Whether it can be nothing but an answer: a formula or number with few words, or one word."""
    words = _WORDS.findall(_MATH.sub("", content))
    if _VALUE.search(content):
        return len(words) <= 2 and not (words and words[0].lower() in _OF_THE_ANSWER)
    stripped = _MARKUP.sub(" ", content).strip(" .")
    if re.match(r"\(?[A-J](?:[).:]|$)", stripped):
        return True
    return len(words) <= 1 and len(stripped.split()) == 1 and stripped.lower() not in _OF_THE_ANSWER


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
