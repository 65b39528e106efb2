"""The pages' style and script, which are written into each page. Nothing is fetched."""

from pathlib import Path

# Per theme: page, ink, and the colour of full entropy gain (blended by the gain).
# Ink on any blend keeps a contrast of at least 4.5 (tested).
THEMES = {
    "light": {
        "page": (255, 255, 255),
        "ink": (31, 35, 40),
        "heat": (240, 136, 20),
        "back": (246, 248, 250),
        "muted": (87, 96, 106),
        "rule": (216, 222, 228),
        "accent": (0, 94, 148),
        "warn": (255, 248, 225),
        "alarm": (163, 64, 0),
    },
    "dark": {
        "page": (22, 27, 34),
        "ink": (240, 243, 246),
        "heat": (158, 82, 0),
        "back": (13, 17, 23),
        "muted": (163, 173, 186),
        "rule": (48, 54, 61),
        "accent": (106, 182, 232),
        "warn": (50, 42, 16),
        "alarm": (240, 150, 90),
    },
}


def _theme(name: str) -> str:
    return ";".join(
        f"--{key}:{' '.join(map(str, rgb))}" for key, rgb in THEMES[name].items()
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


CSS = (
    f":root{{color-scheme:light dark;{_theme('light')}}}\n"
    "@media screen and (prefers-color-scheme:dark)"
    f"{{:root{{{_theme('dark')}}}}}\n" + _beside("page.css")
)
SCRIPT = _beside("page.js")
