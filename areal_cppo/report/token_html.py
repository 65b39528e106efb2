"""Tokens of a response: coloured by entropy gain, with all that is known of each.

The same numbers three times over: in each token's accessible name, in the readout that
follows pointer and keyboard (`page.js` fills it), and in a table.
"""

from collections.abc import Sequence
from math import isfinite

from areal_cppo.report.markup import text, token_text
from areal_cppo.report.samples import IMAGE_KINDS, TokenView
from areal_cppo.report.vocabulary import IMAGES, ROLES

# What a token is asked of each image: (field's end, words, unit).
_QUESTIONS = (
    ("probability", "Probability", ""),
    ("entropy", "Entropy", "nats"),
    ("divergence", "KL from anchor", "nats"),
)
_NOTHING = "\u2013"


def tokens_html(tokens: Sequence[TokenView], name: str) -> str:
    """The response, a button for each token; `name` says whose (plain text)."""
    return (
        f'<ol class="tokens" aria-label="{text(name)}">'
        + "".join(_token(at, token) for at, token in enumerate(tokens, start=1))
        + "</ol>"
    )


def readout_html(tokens: Sequence[TokenView]) -> str:
    """Where the script shows the numbers of one token; hidden without it."""
    rows = "".join(
        f'<tr><th scope="row">{_asked(words, unit)}</th>'
        + "".join(f'<td data-slot="{kind}_{end}"></td>' for kind in IMAGE_KINDS)
        + "</tr>"
        for end, words, unit in _QUESTIONS
        if _columns(tokens, end)
    )
    heads = "".join(f'<th scope="col">{_short(kind)}</th>' for kind in IMAGE_KINDS)
    return (
        '<div class="readout" role="group" aria-label="Numbers of the current token">'
        '<div><p class="which"><span class="piece" data-slot="text"></span>'
        '<b>Token <span data-slot="at"></span> of '
        f"{len(tokens)}</b>"
        '<span class="tag" data-slot="selected"></span></p>'
        '<p class="gauge">Entropy gain <b data-slot="gain"></b>'
        '<span class="bar" aria-hidden="true"></span></p>'
        '<p class="muted" data-slot="role"></p></div>'
        f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        "</div>"
    )


def numbers_html(tokens: Sequence[TokenView], name: str) -> str:
    """All numbers as a table, folded away; `name` says whose (plain text)."""
    asked = [
        (f"{kind}_{end}", f"{words}, {_short(kind).lower()}", unit)
        for end, words, unit in _QUESTIONS
        for kind in _columns(tokens, end)
    ]
    role = any(token.role for token in tokens)
    heads = ["Token", *(["Role"] if role else []), "Selected"]
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    columns += '<th scope="col" class="value">Entropy gain</th>'
    columns += "".join(
        f'<th scope="col" class="value">{_asked(words, unit)}</th>'
        for _, words, unit in asked
    )
    body = "".join(
        _row(at, token, role, [key for key, _, _ in asked])
        for at, token in enumerate(tokens, start=1)
    )
    return (
        "<details><summary>All numbers as a table</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}">'
        f'<table class="numbers"><caption>{text(name)}</caption><thead><tr>'
        f'<th scope="col" class="value">No.</th>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def role_words(role: str) -> str:
    """A token's role, in words, as HTML text; empty where it has none."""
    meaning = ROLES.get(role)
    return text(f"{role}: {meaning}" if meaning else role)


def _token(at: int, token: TokenView) -> str:
    classes = ["token"]
    classes += ["chosen"] if token.selected else []
    classes += ["read"] if token.role == "R" else []
    piece = token_text(token.text)
    said = [f"{piece}, entropy gain {token.gain:.2f}"]
    said += ["perception token"] if token.selected else []
    said += [role_words(token.role)] if token.role else []
    shown = "" if token.role == "T" else text(token.role)
    letter = f"<small>{shown}</small>" if token.role else ""
    ends = ' class="ends"' if "\n" in token.text else ""
    return (
        f'<li{ends}><button type="button" class="{" ".join(classes)}" '
        f'style="--gain:{_gain(token):.3f}" aria-label="{", ".join(said)}">'
        f'<span class="piece">{piece}</span>{letter}</button></li>'
    )


def _row(at: int, token: TokenView, role: bool, keys: list[str]) -> str:
    chosen = "perception token" if token.selected else ""
    words = f'<td data-of="role">{role_words(token.role)}</td>' if role else ""
    values = "".join(
        f'<td class="value" data-of="{key}">{_value(getattr(token, key))}</td>'
        for key in keys
    )
    return (
        f"<tr{' class=chosen' if token.selected else ''}>"
        f'<td class="value" data-of="at">{at}</td>'
        f'<th scope="row" data-of="text"><span class="piece" '
        f'style="--gain:{_gain(token):.3f}">{token_text(token.text)}</span></th>'
        f'{words}<td data-of="selected">{chosen}</td>'
        f'<td class="value" data-of="gain">{token.gain:.3f}</td>{values}</tr>'
    )


def _columns(tokens: Sequence[TokenView], end: str) -> list[str]:
    """The images of which some token has that number."""
    return [
        kind
        for kind in IMAGE_KINDS
        if any(getattr(token, f"{kind}_{end}", None) is not None for token in tokens)
    ]


def _gain(token: TokenView) -> float:
    return min(max(token.gain, 0.0), 1.0)


def _short(kind: str) -> str:
    return IMAGES[kind][0].removesuffix(" view")


def _asked(words: str, unit: str) -> str:
    return f"{words}, {unit}" if unit else words


def _value(value: float | None) -> str:
    return _NOTHING if value is None or not isfinite(value) else f"{value:.3f}"
