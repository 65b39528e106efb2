"""Units at the end of an answer: `5 cm`, `5\\,\\text{cm}^2`, `60 km/h`, `5厘米`."""

from __future__ import annotations

import re

PERCENT = "%"

# What takes a prefix: symbol -> spellings of its name.
_METRIC: dict[str, tuple[str, ...]] = {
    "m": ("meter", "metre", "米"),
    "g": ("gram", "gramme", "克"),
    "s": ("second", "秒"),
    "A": ("ampere", "amp", "安", "安培"),
    "K": ("kelvin",),
    "mol": ("mole",),
    "L": ("liter", "litre", "升"),
    "Hz": ("hertz", "赫", "赫兹"),
    "N": ("newton", "牛", "牛顿"),
    "J": ("joule", "焦", "焦耳"),
    "W": ("watt", "瓦", "瓦特"),
    "V": ("volt", "伏", "伏特"),
    "Pa": ("pascal", "帕", "帕斯卡"),
    "C": ("coulomb",),
    "F": ("farad",),
    "H": ("henry",),
    "T": ("tesla",),
    "Wb": ("weber",),
    "eV": ("electronvolt", "electron volt"),
    "cal": ("calorie",),
    "bar": (),
    r"\Omega": ("ohm", "Ohm", "欧", "欧姆"),
}
_PREFIXES: dict[str, tuple[str, ...]] = {
    "p": ("pico",),
    "n": ("nano", "纳"),
    r"\mu": ("micro", "微"),
    "m": ("milli", "毫"),
    "c": ("centi", "厘"),
    "d": ("deci", "分"),
    "h": ("hecto",),
    "k": ("kilo", "千"),
    "M": ("mega", "兆"),
    "G": ("giga",),
    "T": ("tera",),
}
# The rest: canonical name -> other spellings.
_OTHERS: dict[str, tuple[str, ...]] = {
    "in": ("inch", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yard",),
    "mi": ("mile",),
    "lb": ("lbs", "pound"),
    "oz": ("ounce",),
    "tonne": ("ton", "吨"),
    "s": ("sec",),
    "min": ("mins", "minute", "分钟", "分"),
    "h": ("hr", "hrs", "hour", "小时", "时"),
    "day": ("天", "日"),
    "week": ("周",),
    "month": ("月",),
    "year": ("yr", "年"),
    "L": ("l",),
    "mL": ("ml",),
    "gal": ("gallon",),
    "ha": ("hectare", "公顷"),
    "acre": (),
    "rad": ("radian", "弧度"),
    "rev": ("revolution", "转"),
    "degree": ("deg", r"^\circ", "度"),
    "°C": (r"^\circ C", "degrees Celsius", "摄氏度"),
    "°F": (r"^\circ F", "degrees Fahrenheit"),
    "dollar": ("USD", "美元"),
    "cent": (),
    "yuan": ("RMB", "CNY", "元"),
    "euro": ("EUR",),
    "pound sterling": ("GBP",),
    "atm": ("atmosphere",),
    "mmHg": (),
    "dB": ("decibel",),
    "km": ("公里",),
    "kg": ("公斤",),
    "kWh": tuple(f"kilowatt{gap}hour{s}" for gap in "- " for s in ("", "s")),
    "unit": ("个", "人", "只", "条", "块", "本", "张", "次", "种", "件", "棵", "岁"),
    PERCENT: ("percent", "per cent", "pct"),
}
# Of others: a product of powers.
_COMPOSED: dict[str, dict[str, int]] = {
    "kWh": {"kW": 1, "h": 1},
    "Wh": {"W": 1, "h": 1},
    "mAh": {"mA": 1, "h": 1},
    "mph": {"mi": 1, "h": -1},
    "kph": {"km": 1, "h": -1},
    "kmph": {"km": 1, "h": -1},
    "rpm": {"rev": 1, "min": -1},
}


def _names() -> dict[str, str]:
    """Every spelling, and the unit it stands for."""
    found: dict[str, str] = {}

    def add(canonical: str, *spellings: str) -> None:
        for name in (canonical, *spellings):
            found[name] = canonical
            if name.isascii() and name.isalpha() and len(name) > 2:
                found.setdefault(name + "s", canonical)
                if name.islower():
                    found.setdefault(name.capitalize(), canonical)
                    found.setdefault(name.capitalize() + "s", canonical)

    for symbol, names in _METRIC.items():
        for short, words in _PREFIXES.items():
            space = " " if short[0] == symbol[0] == "\\" else ""
            pairs = ((word, name) for word in words for name in names)
            spelled = [a + b for a, b in pairs if a.isascii() == b.isascii()]
            if short == r"\mu":
                spelled += [f"u{symbol}", rf"\mu {symbol}"]
            add(short + space + symbol, *spelled)
        add(symbol, *names)
    for canonical, spellings in _OTHERS.items():
        add(canonical, *spellings)
    for name in _COMPOSED:
        found[name] = name
    return found


_NAMES = _names()
_SYMBOLS = {prefix + symbol for symbol in _METRIC for prefix in ("", *_PREFIXES)} | {
    "h"
}
_CHINESE_POWERS = {"平方": 2, "立方": 3}
_WORD_POWERS = {"s": 2, "c": 3, **_CHINESE_POWERS}  # square, cubic
_TERM = (
    r"(?:(?P<word>[Ss]quare|[Ss]q\.?|[Cc]ubic|[Cc]u\.?|平方|立方)\s*)?(?P<name>"
    + "|".join(re.escape(n) for n in sorted(_NAMES, key=len, reverse=True))
    + r")(?![A-Za-z])(?:\s*\^\s*(?:\{\s*(?P<braced>-?[1-9])\s*\}|(?P<power>-?[1-9])))?"
)
_ANY = re.sub(r"\?P<\w+>", "?:", _TERM)
_LINK = r"\s*(?:/|\bper\b|每|\\cdot|\*|\\times)\s*|\s+"
_UNIT = rf"{_ANY}(?:(?:{_LINK}){_ANY})*"
_WITH_UNIT = re.compile(
    rf"(?P<value>.*?[^\s\\])(?P<gap>\s|(?<=[^A-Za-z\\])(?=[^\d\s.,^])|(?=[\^\\\u4e00-\u9fff]))\s*"
    rf"(?P<unit>{_UNIT})",
)
_ONE_TERM = re.compile(
    rf"(?P<link>/|\bper\b|每)?\s*(?P<times>\\cdot|\*|\\times)?\s*{_TERM}"
)
_IN_BRACKETS = re.compile(rf"(?P<value>.*?[^\s\\])\s*\(\s*(?P<unit>{_UNIT})\s*\)")
_DIVIDED = re.compile(r"/\s*\(([^()]*)\)$")
_OPEN_ANGLE = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])[^()]*")
_NONE = ("unit",)  # says that there is a unit, not which

Unit = tuple[tuple[str, int], ...]


def split_unit(answer: str) -> tuple[str, Unit | None]:
    """Cut the unit off a cleaned answer (`typography.clean`).

    A unit of one letter needs a space before it: `5 m` has a unit, `5m` is a product.

    Parameters
    ----------
    answer
        One line, `\\text{}` already opened.

    Returns
    -------
    tuple[str, Unit or None]
        What is before the unit, and the unit as sorted (name, power) pairs: `km/h` is
        `(("h", -1), ("km", 1))`. None where there is none, or it is just "units".
    """
    # J/(kg K) is J/kg/K
    flat = _DIVIDED.sub(
        lambda m: "".join(f"/{t}" for t in re.split(r"\\cdot|\*|\s+", m[1]) if t),
        answer,
    )
    match = _IN_BRACKETS.fullmatch(flat) or _WITH_UNIT.fullmatch(flat)
    if match is None:
        return answer, None
    value, unit = match["value"].strip(), match["unit"]
    gap = match.groupdict().get("gap") or match.re is _IN_BRACKETS
    if not gap and len(unit) == 1 and unit.isascii() and unit.isalpha():
        return answer, None
    if unit.startswith(r"^\circ") and _OPEN_ANGLE.search(value):
        return answer, None  # of a sine's argument
    terms = list(_ONE_TERM.finditer(unit))
    apart = [t for t in terms[1:] if t["link"] is t["times"] is None]
    if not re.search(r"[\w)}|]$", value) or (
        apart and not _SYMBOLS.issuperset(t["name"] for t in terms)
    ):
        return answer, None  # "5 feet 6 inches" is no product, "N m" is
    return value, _powers(terms)


def _powers(terms: list[re.Match]) -> Unit | None:
    powers: dict[str, int] = {}
    for term in terms:
        word, size = term["word"], term["braced"] or term["power"]
        power = int(size) if size else 1
        if word and not size:
            power = _WORD_POWERS.get(word, _WORD_POWERS.get(word[0].lower(), 1))
        power *= -1 if term["link"] else 1
        canonical = _NAMES[term["name"]]
        for name, times in _COMPOSED.get(canonical, {canonical: 1}).items():
            powers[name] = powers.get(name, 0) + power * times
    for name in _NONE:
        powers.pop(name, None)
    return tuple(sorted((n, p) for n, p in powers.items() if p)) or None
