"""One spelling for what can be typed in many: an answer as one plain line of LaTeX."""

from __future__ import annotations

import re
import unicodedata

_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        (
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi "
            "pi rho sigma tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi "
            "Sigma Phi Psi Omega"
        ).split(),
        strict=True,
    )
)
_SYMBOLS = {
    **{letter: rf"\{name} " for letter, name in _GREEK.items()},
    **dict.fromkeys("−–—﹣", "-"),
    **dict.fromkeys("×✕", r"\times "),
    **dict.fromkeys("·∙⋅", r"\cdot "),
    **dict.fromkeys("°º", r"^\circ "),
    **dict.fromkeys("≤⩽≦", r"\le "),
    **dict.fromkeys("≥⩾≧", r"\ge "),
    **dict.fromkeys("≈≒", r"\approx "),
    **dict.fromkeys("〈⟨", r"\langle "),
    **dict.fromkeys("〉⟩", r"\rangle "),
    **dict.fromkeys("和且与及、；", ","),
    **dict.fromkeys("【［", "["),
    **dict.fromkeys("】］", "]"),
    **dict.fromkeys("∪或", r"\cup "),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    "÷": "/",
    "∞": r"\infty ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "≠": r"\ne ",
    "∈": r"\in ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∶": ":",
    "。": ".",
    "⁄": "/",
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")

_MARKDOWN = re.compile(r"(?<![\w)}])(\*\*|__|`+)(?=\S)(.+?)(?<=\S)\1(?![\w({])")
_SLANTED = re.compile(r"\*([^*]+)\*")
_ROOT_SIGN = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_OPENED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|mbox|rm"
    r"|bf|it|operatorname)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|quad|qquad|limits)(?![A-Za-z])"
    r"|\\[,;:! ]|~"
)
_SYNONYMS = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(?:leqslant|leqq|leq|le)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geqslant|geqq|geq|ge)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:neq|ne)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\(begin|end)\{[pb]matrix\}", r"\\\1{matrix}"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:degree|textdegree)(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:lbrace|rbrace)(?![A-Za-z])", ""),
        (r"\\(?:approxeq|simeq|approx)(?![A-Za-z])", r"\\approx "),
        (r"\\(?:cup|lor|vee)(?![A-Za-z])", r"\\cup "),
        (r"(?<![A-Za-z\\])or(?![A-Za-z])", r"\\cup "),
        (r"(?<![A-Za-z\\])and(?![A-Za-z])|\\(?:land|wedge|cap)(?![A-Za-z])", ","),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<=\d)\s*\{,\}\s*(?=\d{3})", ","),
        (r",(?:\s*,)+", ","),  # "1, and 2"
        (r"\s+", " "),
    )
]
_ANNOUNCED = re.compile(
    r"\s*(?:(?:the )?(?:final )?(?:answer|ans)(?: is)?|答案?(?:是|为)?)\s*:\s*",
    re.IGNORECASE,
)
_CASES = re.compile(r"\\begin\{cases\}(.*?)\\end\{cases\}")
_CHINESE_OPTION = re.compile(r"^(\s*[(（]?[A-J][)）]?)、(?=.*[^A-J、\s])")
_MONEY = {
    r"\$": "dollar",
    "$": "dollar",
    "¥": "yuan",
    "€": "euro",
    "£": "pound sterling",
}
_PRICE = re.compile(r"(\\?\$|[¥€£])\s*(\d(?:[\d,.]*\d)?)(?![\d.^])")


def clean(answer: str) -> str:
    """An answer with as little typography as the same answer can have.

    Full-width and superscript characters, LaTeX's fonts and spaces, Markdown, dollars
    around it, `Answer:` before it and full stops behind it go; signs get one name
    each (`≤`, `<=`, `\\leq`: `\\le`). `and` becomes a comma, `or` a union.
    """
    text = _MARKDOWN.sub(r"\2", answer)
    text = text.replace("º", "°").replace("\\\\", r"\newline ")
    text = _RAISED.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub(
        r"^(\s*[(（]?[A-J][)）]?)、(?=.*[^A-J、\s])", r"\1. ", text
    )  # an option
    text = _LOWERED.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]), text)
    text = unicodedata.normalize("NFKC", text).translate(str.maketrans(_SYMBOLS))
    text = _ROOT_SIGN.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = re.sub(r"\\[()\[\]]", " ", text).replace(r"\%", "%")
    text = re.sub(r"\$\$", "$", text)
    for _ in range(3):
        text = _OPENED.sub(r" \1 ", text)
    text = _SIZES.sub(" ", text)
    for pattern, replacement in _SYNONYMS:
        text = pattern.sub(replacement, text)
    text = _CASES.sub(lambda m: m[1].replace(r"\newline", ","), text)
    text = _ANNOUNCED.sub("", text.strip(), count=1).strip()
    text = _stripped(text)
    return _PRICE.sub(lambda m: f"{m[2]} {_MONEY[m[1]]}", text).strip()


def _stripped(text: str) -> str:
    """Without the dollars, stars and full stops around it."""
    while True:
        before = text
        text = text.rstrip(". ").strip()
        if len(text) > 1 and text[0] == text[-1] == "$" and text[-2] != "\\":
            text = text[1:-1].strip()
        slanted = _SLANTED.fullmatch(text)
        text = slanted[1] if slanted else text
        if text == before:
            return text
