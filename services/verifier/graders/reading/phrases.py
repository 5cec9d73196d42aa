"""The words around a stated answer: what introduces it, what explains it, and what is only said about it."""

import re
from itertools import islice

MATH = re.compile(r"\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)")
MARKUP = re.compile(r"[\s,:\"'*_`]+")
WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_INTRODUCED = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|indeed|simply|just|exactly|equal\s+to|option|choice|"
    r"approximately|approx\b\.?|roughly|about|around)(?![A-Za-z])[\s,:]*)+(?=\S)",
    re.IGNORECASE,
)
_EXPLAINED = re.compile(
    r"(?<=[0-9$})\]A-Za-z*%°])"
    r"(?:(?:,\s*|\s+[-–—]+\s+|\s*\()(?:which|since|because|as|so(?!.*[0-9$\\])|this|not|i\.e\.)|\s+(?:since|because))(?![A-Za-z])",
    re.IGNORECASE,
)
_AFTERTHOUGHT = re.compile(r"(?<=[0-9$})\]a-z*])(?:,\s+|\s+\(?)(?:which|as|so|where|this)\b", re.IGNORECASE)
"""Of a sentence alone: on a line "x+1 where x > 0" is a side condition."""
_SAID_TO_IT = re.compile(
    r"([*_`]*(?:yes|no|true|false)\b[*_`]*)\s*[,.;:–—-]+\s*"
    r"(?:it|he|she|they|we|you|i|this|that|there|because|since|as|so|the|every|all)\b",
    re.IGNORECASE,
)
_IN_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)
_SPELLED_OUT = re.compile(
    rf"(?<=[0-9$}}*])\s*\(\s*(?:{_IN_WORDS})(?:(?:-|\s+)(?:{_IN_WORDS}|hundred|thousand|million|and))*\s*\)"
    r"(?=[\s.*_]*$|\.\s)",
    re.IGNORECASE,
)
_VALUE = re.compile(r"[0-9$\\=^√π∞½⅓¼]")
_NUMBER_OR_FORMULA = re.compile(
    r"[-+−–]?\s*[0-9.$€£\\(\[{√π∞½⅓¼](?!\S*[0-9$)}]-[A-Za-z]{3})|[A-Za-z](?:\s*[-+*/^<>=_(\\]|$)"
)
_OPTION = re.compile(r"\(?[A-J](?:[).:]|$)")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|mathbf)[a-z]*\s*\{|[{}$]")
_TRIED = 10
"""Places to cut a line at."""
_YES_OR_NO = frozenset(("yes", "no", "true", "false"))
_SAID_OF_NUMBERS = frozenset((
    "digit", "digits", "decimal", "decimals", "long", "longer", "larger", "greater", "smaller", "bigger", "more",
    "less", "fewer", "off", "away", "too", "certain", "sure",
))  # fmt: skip
_OF_THE_ANSWER = frozenset((
    "correct", "right", "wrong", "incorrect", "boxed", "given", "above", "below", "verified", "confirmed", "consistent",
    "reasonable", "unique", "clear", "unknown", "there", "this", "that", "it", "valid", "integer", "positive",
    "negative", "complete", "done", "final", "plausible", "obvious", "found", "not", "as", "in", "an", "the", "same",
))  # fmt: skip
"""What is said about an answer, and is none."""
_POINTING = frozenset((
    "see", "as", "is", "in", "the", "given", "shown", "stated", "written", "boxed", "box", "above", "below", "here",
    "correct", "right", "wrong", "incorrect", "verified", "confirmed", "done", "already", "answer", "solution",
))  # fmt: skip


def without_explanation(line: str) -> str:
    """What a line states, without what introduces and explains it: "18" of "about 18, not 17", "no" of "no, it is"."""
    if line.upper() == line.lower():  # there is no word in it
        return line
    introduced = _INTRODUCED.match(line)
    line = line[introduced.end() :] if introduced else line
    said = _SAID_TO_IT.match(line)
    if said:
        return said[1]
    return _SPELLED_OUT.sub("", _cut(_EXPLAINED, line))


def without_afterthought(sentence: str) -> str:
    return _cut(_AFTERTHOUGHT, sentence)


def _cut(pattern: re.Pattern[str], line: str) -> str:
    """What stands before the first match that is in no bracket and in no formula."""
    for match in islice(pattern.finditer(line), _TRIED):
        before = line[: match.start()]
        opened = sum(map(before.count, "([{")) - sum(map(before.count, ")]}"))
        if opened <= 0 and before.count("$") % 2 == 0:
            return before
    return line


def is_value(content: str) -> bool:
    """Whether it can be nothing but an answer: a formula or number with few words, or one word."""
    words = WORDS.findall(MATH.sub("", content))
    if _VALUE.search(content):
        return len(words) <= 2 and not (words and words[0].lower() in _OF_THE_ANSWER)
    stripped = MARKUP.sub(" ", content).strip(" .")
    if _OPTION.match(stripped):
        return True
    return len(words) <= 1 and len(stripped.split()) == 1 and stripped.lower() not in _OF_THE_ANSWER


def points_elsewhere(content: str) -> bool:
    """Whether it only says where the answer stands, or that it is right: "see above"."""
    words = content.lower().strip(" .*_`").split()
    return bool(words) and _POINTING.issuperset(words)


def corrects(later: str, earlier: str) -> bool:
    """Whether "the answer is `later`" states another answer than `earlier`, and no property of it.

    No list of words is complete ("the answer is prime, optimal, rounded"). So of what follows an answer only what is
    of a kind that no adjective has counts: a number, a formula, an option's letter; yes or no after yes or no; a name,
    in a capital letter, after a name.
    """
    given, stated = _bare(later), _bare(earlier)
    if _OPTION.match(given):
        return True
    if _NUMBER_OR_FORMULA.match(later.strip("*_` ")) and not given.isalpha():
        return not _OPTION.match(stated) and _SAID_OF_NUMBERS.isdisjoint(given.lower().split())
    if given.lower() in _YES_OR_NO:
        return stated.lower() in _YES_OR_NO
    if stated.lower() in _YES_OR_NO or not WORDS.match(stated):
        return False
    return given[:1].isupper() and stated[:1].isupper()


def _bare(content: str) -> str:
    return MARKUP.sub(" ", _TEXT.sub("", content)).strip(" .")
