"""Kinds of variants: units, per cent, degrees."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from tests.rewards.variants.writing import (
    Case,
    decimal,
    kind,
    number,
)

PREFIXES = {
    "": ("", ""),
    "k": ("kilo", "千"),
    "c": ("centi", "厘"),
    "m": ("milli", "毫"),
    "μ": ("micro", "微"),
    "n": ("nano", "纳"),
    "M": ("mega", "兆"),
    "G": ("giga", None),
}
# Unit: its prefixes, its name in English and in Chinese.
SCALED = {
    "m": ("kcmμn", "meter", "米"),
    "g": ("kmμ", "gram", "克"),
    "s": ("mμn", "second", "秒"),
    "L": ("m", "liter", "升"),
    "N": ("k", "newton", "牛"),
    "J": ("kM", "joule", "焦"),
    "W": ("kMm", "watt", "瓦"),
    "V": ("km", "volt", "伏"),
    "A": ("mμ", "ampere", "安"),
    "Pa": ("kM", "pascal", "帕"),
    "Hz": ("kMG", "hertz", None),
    "Ω": ("kM", "ohm", None),
    "eV": ("kM", None, None),
    "F": ("μn", "farad", None),
    "T": ("m", "tesla", None),
    "C": ("μ", "coulomb", None),
    "mol": ("m", "mole", None),
}
# Symbols of one unit, and its names: none of these units equals another one.
UNITS: dict[str, tuple[list[str], list[str]]] = {
    "K": (["K"], ["kelvin"]),
    "Wb": (["Wb"], ["webers"]),
    "kWh": (["kWh"], ["kilowatt hours", "kilowatt-hours"]),
    "atm": (["atm"], ["atmospheres"]),
    "rpm": (["rpm"], ["revolutions per minute"]),
    "min": (["min"], ["minutes", "分钟"]),
    "h": (["h"], ["hours", "小时"]),
    "ft": (["ft"], ["feet"]),
    "cm^2": (["cm^2", "cm^{2}", "cm²"], ["square centimeters", "平方厘米"]),
    "m^2": (["m^2", "m²"], ["square meters", "平方米"]),
    "km^2": (["km^2", "km²"], ["square kilometers", "平方千米"]),
    "mm^3": (["mm^3", "mm³"], ["cubic millimeters", "立方毫米"]),
    "m^3": (["m^3", "m^{3}", "m³"], ["cubic meters", "立方米"]),
    "km/h": (["km/h", r"km\cdot h^{-1}"], ["kilometers per hour"]),
    "m/s": (["m/s", r"m\cdot s^{-1}"], ["meters per second", "米/秒"]),
    "m/s^2": (["m/s^2", "m/s²", r"m\cdot s^{-2}"], ["meters per second squared"]),
    "g/cm^3": (["g/cm^3", "g/cm³", r"g\cdot cm^{-3}"], ["grams per cubic centimeter"]),
    "kg/m^3": (["kg/m^3", "kg/m³", r"kg\cdot m^{-3}"], ["kilograms per cubic meter"]),
    "rad/s": (["rad/s", r"rad\cdot s^{-1}"], ["radians per second"]),
    "mol/L": (["mol/L", r"mol\cdot L^{-1}"], ["moles per liter"]),
    "N/m": (["N/m", r"N\cdot m^{-1}"], ["newtons per meter"]),
    "V/m": (["V/m", r"V\cdot m^{-1}"], ["volts per meter"]),
}
for base, (prefixes, english, chinese) in SCALED.items():
    for prefix in ("", *prefixes):
        long, character = PREFIXES[prefix]
        symbols = [prefix + base]
        for sign, latex in (("μ", r"\mu "), ("Ω", r"\Omega")):
            symbols += [
                symbol.replace(sign, latex) for symbol in symbols if sign in symbol
            ]
        plural = "" if english == "hertz" else "s"
        names = [f"{long}{english}{plural}"] * (english is not None)
        names += [f"{character}{chinese}"] * (None not in (character, chinese))
        UNITS[prefix + base] = symbols, names
UNITS["m"][1].append("metres")
UNITS["km"][1].extend(["公里", "kilometres"])


def with_unit(value: str, unit: str) -> list[str]:
    symbols, names = UNITS[unit]
    texts = [f"{value} {symbol}" for symbol in symbols]
    texts += [f"{value}{' ' * name.isascii()}{name}" for name in names]
    texts += [value + symbols[0]] * (not value.endswith("pi"))
    texts += [rf"{value}\,\mu\text{{{unit[1:]}}}"] * (unit[0] == "μ")
    for symbol in symbols:
        texts += [rf"{value}\,\mathrm{{{symbol}}}", rf"{value}\ \mathrm{{{symbol}}}"]
        if "\\" not in symbol:
            head, power, exponent = symbol.rpartition("^")
            text = rf"\text{{{head}}}^{exponent}" if power else rf"\text{{{symbol}}}"
            texts += [value + space + text for space in (r"\,", "~", " ", "")]
            texts += [rf"{value}\text{{ {symbol}}}"] * (not power)
    return texts


@kind
def units(draw):
    v = draw(st.integers(1, 999) | st.integers(1, 999).map(lambda n: Fraction(n, 100)))
    v = Fraction(v)
    unit, other = draw(
        st.lists(st.sampled_from(sorted(UNITS)), min_size=2, max_size=2, unique=True)
    )
    # Other prefixes, other powers, what begins alike.
    ends = {unit, unit[1:], unit.partition("^")[0]}
    alike = [u for u in UNITS if {u, u[1:]} & ends or u[0] == unit[0]]
    near = draw(st.sampled_from([other, *(u for u in alike if u != unit)]))
    power = draw(st.sampled_from(["", "", r"\times10^{-7}", r"\pi"]))
    right = with_unit(decimal(v) + power, unit)
    new = [decimal(w) + power for w in (10 * v, v / 10, v / 1000, 100 * v, v + 1, -v)]
    wrong = [text for w in new for text in (w, *with_unit(w, unit)[:4])]
    if draw(st.booleans()):  # no unit in the truth: any may stand in the answer
        return Case([decimal(v) + power], right, wrong)
    wrong += [text for w in new for text in with_unit(w, near)[:3]]
    wrong += [text for u in {near, other} for text in with_unit(decimal(v) + power, u)]
    return Case(right, [decimal(v) + power, *right], wrong)


@kind
def per_cents(draw):
    p = draw(st.integers(1, 199) | st.integers(1, 1999).map(lambda n: Fraction(n, 10)))
    p = Fraction(p)

    def write(p: Fraction) -> list[str]:
        return [f"{decimal(p)}{mark}" for mark in ("%", r"\%", " percent", r" \%")]

    others = [p + 1, 10 * p, p / 10, 100 * p, p / 100, -p]
    wrong = [text for other in others for text in write(other)]
    if draw(st.booleans()):
        share = number(p / 100)
        wrong = [text for w in (p + 1, 10 * p, -p) for text in write(w)]
        return Case(share, [*write(p), *share], [*number(p), *wrong])
    wrong += [t for w in (p + 1, 10 * p, p / 10, -p) for t in number(w)]
    return Case(write(p), [*write(p), decimal(p), *number(p / 100)], wrong)


@kind
def degrees(draw):
    d = Fraction(draw(st.integers(1, 720)), draw(st.sampled_from([1, 2, 2, 4])))
    names = [r"\angle A", r"\theta", "x", r"\angle ABC", r"\alpha"]
    name, other = draw(st.permutations(names))[:2]

    def write(d: Fraction) -> list[str]:
        marks = [r"^\circ", r"^{\circ}", "°", " degrees", r"\,^\circ"]
        return [decimal(d) + mark for mark in marks]

    others = [180 - d, 360 - d, 90 - d, d + 1, d - 1, 10 * d, -d]
    changed = [text for w in others if w != d for text in (decimal(w), *write(w))]
    wrong = [*changed, f"{decimal(d)} rad", f"{decimal(d)} cm"]
    named = [f"{name}={text}" for text in write(d)]
    right = [*write(d), *named, decimal(d), f"{name} = {decimal(d)}"]
    if draw(st.booleans()):
        return Case(write(d), right, wrong)
    return Case(named, right, [*wrong, *(f"{other}={text}" for text in write(d))])
