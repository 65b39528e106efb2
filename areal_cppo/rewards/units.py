"""Units at the end of an answer: `5 cm`, `5\\,\\text{cm}^2`, `30^\\circ`, `60 km/h`."""

from __future__ import annotations

import re

PERCENT = "%"

# Canonical name -> other spellings. A plural `s` is understood of words.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "mm": ("millimeter", "millimetre"),
    "cm": ("centimeter", "centimetre"),
    "dm": ("decimeter", "decimetre"),
    "m": ("meter", "metre"),
    "km": ("kilometer", "kilometre"),
    "in": ("inch", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yard",),
    "mi": ("mile",),
    "mg": ("milligram",),
    "g": ("gram",),
    "kg": ("kilogram",),
    "lb": ("lbs", "pound"),
    "oz": ("ounce",),
    "ms": ("millisecond",),
    "s": ("sec", "second"),
    "min": ("mins", "minute"),
    "h": ("hr", "hour"),
    "day": (),
    "week": (),
    "month": (),
    "year": ("yr",),
    "mL": ("ml", "milliliter", "millilitre"),
    "L": ("l", "liter", "litre"),
    "gal": ("gallon",),
    "ha": ("hectare",),
    "acre": (),
    "mph": (),
    "rad": ("radian",),
    "degree": ("deg", r"^\circ", r"^{\circ}"),
    "°C": (r"^\circ C", r"^{\circ}C", r"^{\circ} C", "degrees Celsius"),
    "°F": (r"^\circ F", r"^{\circ}F", r"^{\circ} F", "degrees Fahrenheit"),
    "dollar": ("USD",),
    "cent": (),
    "Hz": ("hertz",),
    "N": ("newton",),
    "J": ("joule",),
    "W": ("watt",),
    "V": ("volt",),
    "Pa": ("pascal",),
    "unit": (),
    PERCENT: ("percent", "per cent", "pct"),
}


def _names() -> dict[str, str]:
    names = {}
    for canonical, spellings in _SPELLINGS.items():
        for name in (canonical, *spellings):
            names[name] = canonical
            if name.isalpha() and len(name) > 2:
                names |= {name + "s": canonical, name.capitalize(): canonical}
                names[name.capitalize() + "s"] = canonical
    return names


_NAMES = _names()
_POWER = r"(?:\s*\^\s*\{?\s*(-?[1-9])\s*\}?)?"
_TERM = (
    r"(?:([Ss]quare|[Ss]q\.?|[Cc]ubic|cu\.?)\s+)?"
    r"(" + "|".join(re.escape(n) for n in sorted(_NAMES, key=len, reverse=True)) + ")"
    r"(?![A-Za-z])" + _POWER
)
_UNIT = rf"{_TERM}(?:\s*(?:/|\bper\b|\\cdot|\*)\s*{_TERM})*"
_WITH_UNIT = re.compile(
    rf"(?P<value>.*?[^\s\\])(?P<gap>(?:\s|(?<=[^A-Za-z\\])(?=[A-Za-z^°%])))\s*(?P<unit>{_UNIT})"
)
_ONE_TERM = re.compile(rf"(?P<link>/|\bper\b)?\s*{_TERM}")
_WORD_POWERS = {"s": 2, "S": 2, "c": 3, "C": 3}  # by first letter: square, cubic
_NONE = ("unit",)  # says that there is a unit, not which

Unit = tuple[tuple[str, int], ...]


def split_unit(answer: str) -> tuple[str, Unit | None]:
    """Cut the unit off a cleaned answer (`answers.clean`).

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
    match = _WITH_UNIT.fullmatch(answer)
    if match is None:
        return answer, None
    unit, gap = match["unit"], match["gap"]
    if not gap and len(unit) == 1 and unit.isalpha():
        return answer, None
    powers: dict[str, int] = {}
    for term in _ONE_TERM.finditer(unit):
        link, word, name, power = term.groups()
        size = int(power) if power else _WORD_POWERS[word[0]] if word else 1
        canonical = _NAMES[name]
        powers[canonical] = powers.get(canonical, 0) + (-size if link else size)
    for name in _NONE:
        powers.pop(name, None)
    return match["value"].strip(), tuple(sorted(powers.items())) or None
