"""Sample responses: tokens coloured by entropy gain, beside the three images."""

from collections.abc import Sequence

from areal_cppo.report.markup import number, png_uri, text
from areal_cppo.report.samples import IMAGE_KINDS, SampleView, TokenView
from areal_cppo.report.token_html import numbers_html, readout_html, tokens_html
from areal_cppo.report.vocabulary import IMAGES, ROLES

_COARSE = 300  # pixels: a smaller picture is enlarged, and its pixels may be seen
_LONG = 120  # tokens: beyond, the numbers stay in sight while the response is scrolled


def samples_html(
    samples: Sequence[SampleView],
    title: str = "Sample responses",
    large: bool = False,
) -> str:
    """The whole section; responses to the same image and prompt share a card.

    `large` gives the images the page's width.
    """
    cards: dict[tuple, list[SampleView]] = {}
    for sample in samples:
        cards.setdefault(_question(sample), []).append(sample)
    body = "".join(
        _card(number, group, large)
        for number, group in enumerate(cards.values(), start=1)
    )
    roles = {token.role for sample in samples for token in sample.tokens}
    return (
        f'<section aria-labelledby="samples"><h2 id="samples">{text(title)}</h2>'
        f"{legend_html(roles)}{body}</section>"
    )


def legend_html(roles: set[str]) -> str:
    """What colour, underlining and the letters below the tokens mean."""
    known = [f"<b>{key}</b> {words}" for key, words in ROLES.items() if key in roles]
    letters = f"<p>{' · '.join(known)}</p>" if known else ""
    return (
        '<div class="legend"><p>Entropy gain 0<span class="ramp"></span>1</p>'
        "<p><u>underlined</u> perception token, selected by entropy gain</p>"
        f'{letters}<p class="muted keys">Point at a token for its numbers, or reach it '
        "with <kbd>Tab</kbd> and <kbd>←</kbd> <kbd>→</kbd>; <kbd>↑</kbd> "
        "<kbd>↓</kbd> go to the underlined ones.</p></div>"
    )


def _question(sample: SampleView) -> tuple:
    pixels = sample.anchor.tobytes() if sample.anchor else sample.title
    return sample.prompt, pixels


def _card(number_: int, group: list[SampleView], large: bool) -> str:
    group = sorted(group, key=lambda sample: sample.policy != "before")
    parts: dict[tuple, list[SampleView]] = {}  # the same images are shown once
    for sample in group:
        images = (getattr(sample, kind) for kind in IMAGE_KINDS)
        key = tuple(image and image.tobytes() for image in images)
        parts.setdefault(key, []).append(sample)
    judged = "".join(
        f'<div class="judged">{_images(number_, part[0])}<div>'
        + "".join(_response(number_, sample) for sample in part)
        + "</div></div>"
        for part in parts.values()
    )
    return (
        f'<article class="card sample{" large" if large else ""}">'
        f"<h3>{text(group[0].title)}</h3>"
        f'<p class="muted question">{text(group[0].prompt)}</p>{judged}</article>'
    )


def _response(number_: int, sample: SampleView) -> str:
    when = f"{sample.policy.capitalize()} training" if sample.policy else "Response"
    notes = "".join(f'<p class="remark">{text(note)}</p>' for note in sample.notes)
    long = " long" if len(sample.tokens) > _LONG else ""
    name = f"Tokens of sample {number_}: {when.lower()}"
    return (
        f'<div class="response{long}"><div class="verdict"><h4>{text(when)}</h4>'
        f"{_verdict(sample)}</div>{tokens_html(sample.tokens, name)}"
        f"{readout_html(sample.tokens)}"
        f'<p class="muted">{_found(sample.tokens)}</p>{notes}'
        f"{numbers_html(sample.tokens, name)}</div>"
    )


def _verdict(sample: SampleView) -> str:
    """What the answer is worth, as far as there is something to judge it by."""
    parts = []
    if sample.correct is not None:
        parts.append(
            f'<span class="tag">{"✓ correct" if sample.correct else "✗ wrong"}</span>'
        )
    if sample.answer or sample.correct is not None:
        parts.append(f"<span>answer <b>{text(sample.answer) or 'none'}</b></span>")
    if sample.reward is not None:
        parts.append(f'<span class="muted">reward {number(sample.reward)}</span>')
    return "".join(parts)


def _images(number_: int, sample: SampleView) -> str:
    figures = []
    for kind in IMAGE_KINDS:
        name, meaning = IMAGES[kind]
        image = getattr(sample, kind)
        if image is None:
            shown = '<span class="nothing">none</span>'
        else:
            coarse = ' class="coarse"' if max(image.size) < _COARSE else ""
            alt = f"{name} of sample {number_}: {meaning}"
            shown = f'<img{coarse} src="{png_uri(image)}" alt="{text(alt)}">'
        drawn = text(sample.perturbations.get(kind, ""))
        figures.append(
            f"<figure>{shown}<figcaption><b>{name}</b><br>{meaning}"
            + (f"<br><code>{drawn}</code>" if drawn else "")
            + "</figcaption></figure>"
        )
    return f'<div class="views">{"".join(figures)}</div>'


def _found(tokens: Sequence[TokenView]) -> str:
    """How the selection compares with the truth, where the roles are known."""
    chosen = sum(token.selected for token in tokens)
    words = f"{chosen} of {len(tokens)} tokens are perception tokens"
    reads = [token for token in tokens if token.role == "R"]
    if not reads:
        return f"{words}."
    found = sum(token.selected for token in reads)
    return f"{words}; {found} of the {len(reads)} that read a digit are among them."
