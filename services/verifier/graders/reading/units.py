"""Units of an answer: the words behind its number, and which of them say the same. All read cleaned answers."""

import re
from collections import Counter
from functools import lru_cache

from services.verifier.graders.math_text import TEXT

# fmt: off
_UNIT_WORDS = (
    "dollar", "cent", "euro", "year", "month", "week", "day", "hour", "minute", "second", "mile", "meter", "metre",
    "foot", "feet", "yard", "inch", "inches", "kilometer", "kilometre", "centimeter", "centimetre", "millimeter",
    "millimetre", "gram", "kilogram", "pound", "ounce", "liter", "litre", "milliliter", "gallon", "degree", "radian",
    "unit", "acre", "newton", "joule", "watt", "volt", "people", "person", "student", "children",
    "point", "way", "time", "hr", "min", "sec", "lb", "oz", "kilogramme", "gramme", "ton", "tonne",
    r"(?:degrees?\s+)?celsius", r"(?:degrees?\s+)?fahrenheit",
)
_SAFE_SIGNS = ("kB", "KB", "MB", "GB", "TB", "Mbps", "Gbps", "kHz", "MHz", "GHz", "kWh")
"""Behind a number nobody takes them for a product of letters."""
_UNIT_SIGNS = (
    "km", "cm", "mm", "m", "ft", "kg", "g", "s", "mph", "ml", "mL", "h", "kph", "mg", "in", "yd", "mi", "L", "N", "J",
    "W", "V", "Hz", "Pa", "kPa", "kW", "kJ", "dL", "cL", "ms", "kN", "kV", "mV", "mA", "mW", "MW", "GW",
    "MPa", "hPa", "kcal", "mol", "rpm", "psi",
    *_SAFE_SIGNS,
)
_NUMBER_WORDS = frozenset((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "hundred", "thousand", "million", "billion", "trillion", "bn", "dozen", "score", "pair", "half", "halve",
    "third", "quarter", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "hundredth",
    "thousandth", "percent", "percentage",
    "pct", "squared", "cubed", "factorial", "negative", "minus", "plus", "over", "point", "mod", "base",
    "than", "pi", "by", "in", "to", "not", "less", "more", "and", "or", "e", "i", "k", "n", "x", "y", "z", "mn",
    "M", "G", "T", "gross", "couple", "twice", "double", "triple", "lakh", "crore", "grand", "kilo", "mega", "giga",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty",
    "fifty", "sixty", "seventy", "eighty", "ninety", "maybe", "perhaps", "about", "modulo", "plusminus", "times",
    "divided", "choose", "for", "where", "with", "if", "but", "wrong", "per", "of", "isn", "root", "power",
))
"""What makes another number, or none, of the number before it; a final s aside."""
# fmt: on
_POWER_WORD = r"(?:square|cubic|sq|cu)\.?\s+"
_UNIT_WORD = rf"(?i:(?:{_POWER_WORD})?(?:{'|'.join(_UNIT_WORDS)})s?|{_POWER_WORD}(?:km|cm|mm|m|ft|in|yd|mi)\b)"
_UNIT = re.compile(rf"(?:{_UNIT_WORD}|{'|'.join(_UNIT_SIGNS)})(?:\s*(?:\bper\b|/)\s*(?:{_UNIT_WORD}|[hs]))?")
_UNIT_PART = rf"{TEXT.pattern.replace('([^', '[^').replace('*)', '*')}\s*(?:\^\s*\{{?-?[0-9]\}}?)?"
_LATEX_UNIT = re.compile(rf"(?<=[0-9}})])\s*({_UNIT_PART}(?:\s*(?:/|\\cdot)?\s*{_UNIT_PART})*)$")
_UNIT_MARKUP = re.compile(r"\\[a-z]+\s*|[{}]")
_EXPONENT = re.compile(r"\s*\^\s*\{?\s*(-?[0-9])\s*\}?")
_PLAIN_UNIT = re.compile(
    rf"(?<=[0-9])\s+((?:{_UNIT_WORD}(?:\s+per\s+{_UNIT_WORD})?|km|cm|mm|ft|kg|mph|{'|'.join(_SAFE_SIGNS)})"
    r"(?:\s*\^\s*\{?[23]\}?)?)\s*$"
)
_SIGNS_ALONE = re.compile(
    rf"(?<=[0-9])(?:\s*(km/h|m/s|km|cm|mm|kg|mph|{'|'.join(_SAFE_SIGNS)})|\s+((?:m|ft|km)/(?:s|h|min)))\s*$"
)
"""Signs that nobody takes for letters, close to the number or not."""
_DEGREES = re.compile(
    r"([+-]?(?:[0-9][0-9.,]*|\\[dt]?frac\{[0-9]+\}\{[0-9]+\}))\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)"
    r"\s*(?:(?:\\(?:text|mathrm|mbox)\s*\{\s*)?([CF])(?:\s*\})?)?"
)
_SCALES = {"C": "degrees Celsius", "F": "degrees Fahrenheit", None: "degrees"}
_AREA = re.compile(r"(?<=[0-9])\s+((?:m|in|yd|mi)\s*\^\s*(?:[23]|\{[23]\}))$")
_SIGN_BEHIND = re.compile(rf"(?<=[0-9}}])\s*((?:{'|'.join(_UNIT_SIGNS)})(?:\s*\^\s*\{{?[23]\}}?)?)$")
_COUNTED = re.compile(r"(?<=[0-9])\s+([a-z]{3,}(?:\s+[a-z]{3,})?)$")
_TIME = re.compile(
    r"0?([0-9]{1,2}(?::[0-9]{2}){0,2})\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*)?([ap])\.?\s?m\b\.?\s*\}?\.?", re.IGNORECASE
)
_CURRENCY = re.compile(r"\s*(\\\$|\$(?=[^$]*$)|€|£)\s*[0-9.]")
_CURRENCIES = {"$": "dollars", "€": "euros", "£": "pounds"}
_ONE = re.compile(r"[+]?1")
_IRREGULAR_PLURALS = frozenset(
    ("people", "children", "men", "women", "feet", "teeth", "mice", "geese", "fish", "sheep", "dice", "deer", "oxen")
)
_FORMED_NUMBER = re.compile(
    r"(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|[a-z]+teen|[a-z]+tie|hundred|thousand|[a-z]+illion)ths?"
    r"|[a-z]+illi(?:on|ard)s?|(?:repeat|recurr)(?:ing|s)?|reciprocals?|inverses?"
)
"""Number words that are formed by a rule, and what is said of a number as they are."""
_UNIT_TOKEN = re.compile(r"[A-Za-z]+|\^-?[0-9]|/")
# fmt: off
_SPELLINGS = {
    spelling: name
    for name, spellings in {
        "km": "kilometer kilometre", "cm": "centimeter centimetre", "mm": "millimeter millimetre", "m": "meter metre",
        "ft": "foot feet", "yd": "yard", "in": "inch inches", "mi": "mile", "kg": "kilogram kilogramme kilo",
        "g": "gram gramme", "mg": "milligram", "lb": "pound", "oz": "ounce", "t": "ton tonne", "L": "l liter litre",
        "mL": "ml milliliter millilitre", "h": "hour hr", "min": "minute", "s": "second sec", "degree": "deg",
        "N": "newton", "J": "joule", "W": "watt", "V": "volt", "Hz": "hertz", "Pa": "pascal",
        "people": "person", "children": "child",
    }.items()
    for spelling in (name, *spellings.split())
}
_ONE_READING = {
    form: sign
    for sign in ("km", "cm", "kg", "ft", "yd", "in", "mi", "lb", "oz", "hr", "sec", "min", "deg", "mph", "kph", "kmh",
                 "Hz", "kHz", "kPa", "kJ", "kW", "kV", "sq", "cu", "per")
    for form in (sign, sign.lower(), sign.upper(), sign.capitalize(), sign[0].upper() + sign[1:])
}
"""Signs that say the same in whatever case: there is no other unit that differs in nothing else."""
_PREFIXED = re.compile(
    r"(?:[myz][b-df-hj-np-tv-xz]|p[bcdfgjkmqvwxz]).*|[mp](?:ah|as|amps?|ev|eq|ohms?|ergs?)", re.IGNORECASE
)
"""A unit's name behind a prefix that another one differs from in its case alone: no word begins with mt or pf."""
_WORD = re.compile(r"[a-zA-Z]{4,}|(?!cal)[a-z]*[aeiou][a-z]*", re.IGNORECASE)
"""Of which the case says nothing; what is shorter, or has no vowel, is a sign."""
_COMPOUND = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}, "kmh": {"km": 1, "h": -1}}
# fmt: on
_PREFIXES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_ANY_UNIT = "unit"
_CACHED_PAIRS = 1024


def is_unit(text: str) -> bool:
    """Whether it names a measure, as "miles per hour" does; "thousand" and "M" do not."""
    return _UNIT.fullmatch(_EXPONENT.sub("", text.strip())) is not None


def split_unit(answer: str) -> tuple[str, str]:
    """An answer without the words that follow its number, and these words: ("5", "miles"), ("12", "cm^2")."""
    degrees = _DEGREES.fullmatch(answer)
    if degrees:
        return degrees[1], _SCALES[degrees[2]]
    match = _LATEX_UNIT.search(answer) or _PLAIN_UNIT.search(answer) or _SIGNS_ALONE.search(answer)
    match = match or _COUNTED.search(answer)
    if match:
        unit = _UNIT_MARKUP.sub(" ", _EXPONENT.sub(r"^\1 ", match[match.lastindex or 1]))
        return answer[: match.start()], " ".join(unit.split())
    return answer, ""


def split_measure(answer: str) -> tuple[str, str]:
    """As `split_unit`, but only of words that can say nothing else than a unit, or what is counted."""
    bare, unit = split_unit(answer)
    return (bare, unit) if is_unit(unit) or _counts_things(f"{bare.rstrip()} {unit}", unit) else (answer, "")


def split_sign_of(answer: str, unit: str) -> str:
    """`answer` without a unit's sign that is `unit`, "5" of "5 m" beside "meters": elsewhere `m` may be a letter."""
    match = _SIGN_BEHIND.search(answer)
    return answer[: match.start()] if match and same_unit(_with_exponents(match[1]), unit) else answer


def split_area(answer: str) -> tuple[str, str]:
    """As `split_unit`, of a unit's sign with an exponent, "18 m^2": beside a number alone it is no letter's power."""
    match = _AREA.search(answer)
    return (answer[: match.start()], _with_exponents(match[1])) if match else (answer, "")


def _with_exponents(unit: str) -> str:
    return " ".join(_EXPONENT.sub(r"^\1 ", unit).split())


def split_time(answer: str) -> tuple[str, str]:
    """A time of day and its half, ("12:30", "pm") for "12:30 P.M."; as text, as it is no ratio."""
    time = _TIME.fullmatch(answer)
    return (f"\\text{{{time[1]}}}", f"{time[2].lower()}m") if time else (answer, "")


def currency(written: str) -> str:
    """Of an amount of money, "dollars" for `\\$5`; empty for anything else, as `$5$` is mathematics."""
    sign = _CURRENCY.match(written)
    return _CURRENCIES[sign[1][-1]] if sign else ""


def without_currency(amount: str) -> str:
    """An amount of money without its sign; of dollars it has gone before, with the signs of mathematics."""
    return amount.lstrip("€£ ")


def _counts_things(answer: str, words: str) -> bool:
    """Whether the words behind a plain number can only say what is counted: "18 red apples", "1 apple".

    What is counted stands in the plural; "0.3 repeating" and "5 quintillion" are other numbers.
    """
    counted = _COUNTED.search(answer)
    if counted is None or not may_be_unit(words):
        return False
    return _ONE.fullmatch(answer[: counted.start()]) is not None or any(map(_is_plural, words.split()))


def _is_plural(word: str) -> bool:
    return word in _IRREGULAR_PLURALS or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


def may_be_unit(words: str) -> bool:
    """Of a gold answer, which may count anything: words, and none that makes another number of it."""
    found = re.findall(r"[a-zA-Z]+|[^a-zA-Z\s./]", _EXPONENT.sub("", words))
    return bool(found) and all(word.isalpha() and not _makes_another_number(word) for word in found)


def _makes_another_number(word: str) -> bool:
    forms = (word, word.lower(), word.lower().removesuffix("s"))
    return not _NUMBER_WORDS.isdisjoint(forms) or _FORMED_NUMBER.fullmatch(word.lower()) is not None


@lru_cache(_CACHED_PAIRS)
def same_unit(one: str, other: str) -> bool:
    """Whether two units say the same, in whatever spelling: "m/s" and "metres per second", not "cm" and "cm^2".

    "units" may be any. Of things that are counted one may say more than the other: "red apples" and "apples".
    """
    a, b = _powers(one), _powers(other)
    return a == b or _ANY_UNIT in a or _ANY_UNIT in b or (_counts(a) and _counts(b) and (a <= b or b <= a))


def _counts(powers: Counter[str]) -> bool:
    return not any(name in _SPELLINGS or power != 1 for name, power in powers.items())


def _powers(unit: str) -> Counter[str]:
    """Exponent of each of its parts: 1 of m and −1 of s in "m/s"."""
    found: Counter[str] = Counter()
    sign, prefix, last = 1, 1, ""
    for token in _UNIT_TOKEN.findall(unit):
        word = _in_one_case(token)
        if word in ("/", "per"):
            sign = -1
        elif word in _PREFIXES:
            prefix = _PREFIXES[word]
        elif word.startswith("^"):
            found[last] *= int(word[1:])
        elif word in _COMPOUND:
            found.update({name: sign * power for name, power in _COMPOUND[word].items()})
        else:
            last = _SPELLINGS.get(word, word)
            found[last] += sign * prefix
            prefix = 1
    return found


def _in_one_case(token: str) -> str:
    """A word in small letters and without the s of its plural, and a sign as it is written: mg is not Mg, m not ms."""
    sign = _ONE_READING.get(token) or _ONE_READING.get(token.removesuffix("s").removesuffix("S"))
    if sign or token in _SPELLINGS:
        return sign or token
    word = token.lower()
    if len(word) > 2 and _WORD.fullmatch(word) and not _PREFIXED.fullmatch(word):
        return word if word in _SPELLINGS else word.removesuffix("s")
    return token
