"""Sample responses: tokens coloured by entropy gain, beside the three images."""

from collections.abc import Sequence

from areal_cppo.report.markup import number, png_uri, text, token_text
from areal_cppo.report.samples import IMAGE_KINDS, SampleView, TokenView
from areal_cppo.report.vocabulary import IMAGES, ROLES


def samples_html(samples: Sequence[SampleView]) -> str:
    """The whole section; responses to the same image and prompt share a card."""
    cards: dict[tuple, list[SampleView]] = {}
    for sample in samples:
        cards.setdefault(_question(sample), []).append(sample)
    body = "".join(
        _card(number, group) for number, group in enumerate(cards.values(), start=1)
    )
    roles = {token.role for sample in samples for token in sample.tokens}
    return (
        '<section aria-labelledby="samples"><h2 id="samples">Sample responses</h2>'
        f"{legend_html(roles)}{body}</section>"
    )


def legend_html(roles: set[str]) -> str:
    """What colour, underlining and the letters below the tokens mean."""
    known = [f"<b>{key}</b> {words}" for key, words in ROLES.items() if key in roles]
    letters = f"<p>{' · '.join(known)}</p>" if known else ""
    return (
        '<div class="legend"><p>Entropy gain 0<span class="ramp"></span>1</p>'
        "<p><u>underlined</u> perception token, selected by entropy gain</p>"
        f'{letters}<p class="muted">Point at a token, or reach it with Tab and the '
        "arrow keys, for its numbers.</p></div>"
    )


def tokens_html(tokens: Sequence[TokenView]) -> str:
    """The response, a list item for each token."""
    return (
        '<ol class="tokens" aria-label="Response, token by token">'
        + "".join(map(_token, tokens))
        + "</ol>"
    )


def _question(sample: SampleView) -> tuple:
    pixels = sample.anchor.tobytes() if sample.anchor else sample.title
    return sample.prompt, pixels


def _card(number_: int, group: list[SampleView]) -> str:
    group = sorted(group, key=lambda sample: sample.policy != "before")
    answers = "".join(_answer(number_, sample) for sample in group)
    return (
        f'<article class="card sample"><h3>{text(group[0].title)}</h3>'
        f'<p class="muted">{text(group[0].prompt)}</p>{answers}</article>'
    )


def _answer(number_: int, sample: SampleView) -> str:
    when = f"{sample.policy.capitalize()} training"
    verdict = "✓ correct" if sample.correct else "✗ wrong"
    views = "".join(_image(number_, sample, kind, when) for kind in IMAGE_KINDS)
    return (
        f'<div class="answer"><div class="views">{views}</div><div>'
        f'<div class="verdict"><h4>{text(when)}</h4>'
        f'<span class="tag">{verdict}</span>'
        f"<span>answer <b>{text(sample.answer) or 'none'}</b></span>"
        f'<span class="muted">reward {number(sample.reward)}</span></div>'
        f'{tokens_html(sample.tokens)}<p class="muted">{_found(sample.tokens)}</p>'
        "</div></div>"
    )


def _image(number_: int, sample: SampleView, kind: str, when: str) -> str:
    name, meaning = IMAGES[kind]
    image = getattr(sample, kind)
    if image is None:
        shown = '<span class="nothing">none</span>'
    else:
        alt = f"{name} of sample {number_}, {when.lower()}: {meaning}"
        shown = f'<img src="{png_uri(image)}" alt="{text(alt)}">'
    return (
        f"<figure>{shown}<figcaption><b>{name}</b><br>{meaning}</figcaption></figure>"
    )


def _found(tokens: Sequence[TokenView]) -> str:
    """How the selection compares with the truth, where the roles are known."""
    chosen = sum(token.selected for token in tokens)
    words = f"{chosen} of {len(tokens)} tokens are perception tokens"
    reads = [token for token in tokens if token.role == "R"]
    if not reads:
        return f"{words}."
    found = sum(token.selected for token in reads)
    return f"{words}; {found} of the {len(reads)} that read a digit are among them."


def _token(token: TokenView) -> str:
    classes = ["token"]
    classes += ["chosen"] if token.selected else []
    classes += ["read"] if token.role == "R" else []
    facts = [
        f"entropy gain {token.gain:.3f}",
        f"anchor entropy {token.anchor_entropy:.3f} nats",
        f"negative entropy {token.negative_entropy:.3f} nats",
        "perception token" if token.selected else "not selected",
    ]
    if token.role:
        meaning = ROLES.get(token.role)
        facts.append(f"{token.role}: {meaning}" if meaning else token.role)
    gain = min(max(token.gain, 0.0), 1.0)
    shown = "" if token.role == "T" else text(token.role)
    line_break = '<li class="break" role="presentation"></li>'
    return (
        f'<li class="{" ".join(classes)}" tabindex="0" style="--gain:{gain:.3f}">'
        f'<span class="piece">{token_text(token.text)}</span>'
        f"<small>{shown}</small>"
        f'<span class="tip" role="tooltip">{text(chr(10).join(facts))}</span></li>'
        f"{line_break if chr(10) in token.text else ''}"
    )
