"""The contact sheet as a page."""

from __future__ import annotations

from itertools import groupby

from areal_cppo.inspection.sheet import KIND_WORDS, Draw, Sheet, Strip
from areal_cppo.report.markup import png_uri, text
from areal_cppo.report.page import page_html, versions

_COARSE = 300  # pixels: a smaller picture is enlarged, and its pixels may be seen


def sheet_html(sheet: Sheet) -> str:
    """The whole page, which needs nothing but itself."""
    facts = "".join(f'<p class="muted">{text(fact)}</p>' for fact in sheet.facts)
    header = (
        '<header><p class="eyebrow">areal_cppo views</p>'
        f"<h1>{text(sheet.title)}</h1>{facts}</header>"
    )
    original = (
        '<section class="original" aria-labelledby="original">'
        '<h2 id="original">Original</h2><figure class="card">'
        f"{_image(sheet.anchor, 'The original, as the model sees it')}"
        "<figcaption>as the model sees it</figcaption></figure></section>"
    )
    families = "".join(
        _family(kind, list(strips))
        for kind, strips in groupby(sheet.strips, key=lambda strip: strip.kind)
    )
    return page_html(
        sheet.title,
        header,
        original + families,
        f"<p>Made with {versions()}.</p>",
    )


def _family(kind: str, strips: list[Strip]) -> str:
    sign, name, words = KIND_WORDS[kind]
    return (
        f'<section class="{kind}" aria-labelledby="{kind}"><h2 id="{kind}">'
        f'<span class="sign" aria-hidden="true">{sign}</span>{name}: {words}</h2>'
        f'<div class="card family">{"".join(map(_strip, strips))}</div></section>'
    )


def _strip(strip: Strip) -> str:
    settings = "".join(f"<li>{text(line)}</li>" for line in strip.settings)
    draws = "".join(
        _draw(f"{strip.name}, draw {at}", draw)
        for at, draw in enumerate(strip.draws, start=1)
    )
    return (
        f'<article class="strip"><div><h3><code>{text(strip.name)}</code></h3>'
        f'<ul class="settings">{settings}</ul></div>'
        f'<div class="draws">{draws}</div></article>'
    )


def _draw(name: str, draw: Draw) -> str:
    words = name.partition(", ")[2] + (": unchanged" if draw.unchanged else "")
    return (
        f"<figure>{_image(draw.image, name)}<figcaption>{words}</figcaption></figure>"
    )


def _image(image, alt: str) -> str:
    coarse = ' class="coarse"' if max(image.size) < _COARSE else ""
    return (
        f'<img{coarse} width="{image.width}" height="{image.height}" '
        f'src="{png_uri(image)}" alt="{text(alt)}">'
    )
