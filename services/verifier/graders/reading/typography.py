"""Typographic variants of an answer brought to plain LaTeX, where they change nothing that it says.

Used by `math_verify` and `math_dapo` for golds and answers alike. Takes time linear in the text.
"""

import re

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_THIN = "\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_SIGNS = str.maketrans(
    _FULL_WIDTH
    | {"。": ".", "、": ",", "−": "-", "‐": "-", "‑": "-", "﹣": "-", "\u00a0": "~"}
    | dict.fromkeys(_THIN, "\\,")
)  # fmt: skip
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_INDICES = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₓ", "0123456789+-=()nx")
_POWER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_INDEX = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₓ]+")
_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9),
    "⅒": (1, 10),
}  # fmt: skip
_FRACTION = re.compile(f"[{''.join(_FRACTIONS)}]")
_SLASH = re.compile(r"(?<![0-9])([0-9]+)⁄([0-9]+)(?![0-9])")
_RADICALS = {"√": "", "∛": "[3]", "∜": "[4]"}
_ROOT = re.compile(r"([√∛∜])\s*(?:([0-9]+(?:\.[0-9]+)?)|(\\frac\{[0-9]+\}\{[0-9]+\}|\\(?!frac)[a-zA-Z]+|[a-zA-Z])|)")
_PLAIN_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*\(")
_DASH = re.compile(r"(?:(?<=^)|(?<=[(\[{=,^:<>$]))(\s*)[–—](?=\s*[0-9.\\$(a-zA-Z])")
_GROUPED = re.compile(
    r"(?<![0-9.,])[0-9]{1,3}(?:\s?(?:\\[,:;! ]|~)\s?[0-9]{3})+(?![0-9])|"
    r"(?<=[0-9])\.[0-9]{3}(?:(?:\\[,:;! ]|~)[0-9]{3})*(?:\\[,:;! ]|~)[0-9]{1,3}(?![0-9])"
)
_BETWEEN_DIGITS = re.compile(r"\\[,:;! ]|[~\s]")
_EMPHASIS = re.compile(r"(?<![\w)}\]])(\*\*\*|\*\*|__|`+)(?=\S)(.*?\S)\1(?![\w(])")
_HALF_EMPHASIS = re.compile(r"^\s*(?:\*{2,}|`+)\s*|(?<=[^\s^{*`])\s*(?:\*{2,}|`+)(?=[.,;:]?\s*$)")
_SLANTED = re.compile(r"\s*([*_])([^*_]+)\1([.,;:]?)\s*")
_SHORT_FRACTION = re.compile(r"\\([dtc]?)frac\s*([0-9])\s*([0-9])(?![0-9])")
_MAX_CHARACTERS = 2000
"""A longer answer is read as it stands."""


def plain(written: str) -> str:
    """Unicode signs as LaTeX, without emphasis, with numbers in one piece: `**10 000**` is 10000, `5√2` 5\\sqrt{2}."""
    if len(written) > _MAX_CHARACTERS:
        return written
    text = written if written.isascii() else _ascii(written)
    if "`" in text or "*" in text or "_" in text:
        text = _HALF_EMPHASIS.sub("", _EMPHASIS.sub(r"\2", text))
        slanted = _SLANTED.fullmatch(text)
        text = slanted[2] + slanted[3] if slanted else text.lstrip("*_ ")
    if "\\" in text or "~" in text:
        text = _GROUPED.sub(lambda match: _BETWEEN_DIGITS.sub("", match[0]), text)
        text = _SHORT_FRACTION.sub(r"\\\1frac{\2}{\3}", text)
    return _braced_roots(text) if "\\sqrt" in text else text


def _ascii(written: str) -> str:
    text = _DASH.sub(r"\1-", written.translate(_SIGNS))
    text = _POWER.sub(lambda match: f"^{{{match[0].translate(_POWERS)}}}", text)
    text = _INDEX.sub(lambda match: f"_{{{match[0].translate(_INDICES)}}}", text)
    text = _SLASH.sub(r"\\frac{\1}{\2}", text)
    text = _FRACTION.sub(lambda match: "\\frac{%d}{%d}" % _FRACTIONS[match[0]], text)  # noqa: UP031 - braces of LaTeX
    return _ROOT.sub(_root, text)


def _root(match: re.Match[str]) -> str:
    radicand = match[2] or match[3]
    return f"\\sqrt{_RADICALS[match[1]]}{{{radicand}}}" if radicand else f"\\sqrt{_RADICALS[match[1]]}"


def _braced_roots(text: str) -> str:
    """`\\sqrt(2)` as `\\sqrt{2}`, where the bracket closes."""
    while match := _PLAIN_ROOT.search(text):
        depth = 0
        for index in range(match.end() - 1, len(text)):
            depth += (text[index] == "(") - (text[index] == ")")
            if depth == 0:
                inside = text[match.end() : index]
                text = f"{text[: match.start()]}\\sqrt{match[1] or ''}{{{inside}}}{text[index + 1 :]}"
                break
        else:
            break
    return text
