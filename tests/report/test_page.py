"""Colours of the pages and of the contact sheet: contrast by WCAG 2's formula."""

import pytest

from areal_cppo.inspection.sheet_plot import KIND_COLORS
from areal_cppo.report.page import THEMES

RGB = tuple[float, float, float]


def luminance(rgb: RGB) -> float:
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: RGB, other: RGB) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_the_formula():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_tokens_keep_their_contrast(theme):
    """Ink on every blend of page and heat, and of the readout's background."""
    colors = THEMES[theme]
    for page in ("page", "back"):
        for gain in range(101):
            blend = tuple(
                (ground * (100 - gain) + heat * gain) / 100
                for ground, heat in zip(colors[page], colors["heat"], strict=True)
            )
            assert contrast(colors["ink"], blend) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("words", ["ink", "muted", "accent", "alarm"])
@pytest.mark.parametrize("ground", ["page", "back", "warn"])
def test_words_keep_their_contrast(theme, words, ground):
    assert contrast(THEMES[theme][words], THEMES[theme][ground]) >= 4.5


@pytest.mark.parametrize("kind", KIND_COLORS)
def test_white_on_the_headings_of_the_contact_sheet(kind):
    rgb = tuple(255 * part for part in KIND_COLORS[kind])
    assert contrast((255, 255, 255), rgb) >= 4.5
