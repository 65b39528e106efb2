"""The page that `areal-cppo inspect` writes, of the run report's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import yaml

from areal_cppo.core import CPLConfig
from areal_cppo.report.markup import number, text
from areal_cppo.report.page import page_html, versions
from areal_cppo.report.sample_html import samples_html
from areal_cppo.report.samples import SampleView, TokenView

_SELECTED = {
    "entropy_gain": "Selected are the tokens of highest gain",
    "entropy_rise": "Selected are the tokens whose entropy rises most",
    "random": "Selected are random tokens, as a control (selection: random)",
    "all": "Selected are all tokens, as a control (selection: all)",
}


@dataclass(frozen=True)
class Inspection:
    """What was looked at, in words.

    Attributes
    ----------
    title
        The page's.
    facts
        Model, response, views: a line below the title.
    cpl
        By whose rules tokens were selected; `None` where that is not known.
    samples
        The judged responses.
    """

    title: str
    facts: list[str]
    cpl: CPLConfig | None
    samples: Sequence[SampleView]


def inspection_html(inspection: Inspection) -> str:
    """The whole page, which needs nothing but itself."""
    tokens = [token for sample in inspection.samples for token in sample.tokens]
    header = (
        '<header><p class="eyebrow">areal_cppo inspection</p>'
        f"<h1>{text(inspection.title)}</h1>"
        f'<p class="muted">{" · ".join(map(text, inspection.facts))}</p>'
        f'<div class="headline bare"><div class="facts">{_figures(tokens)}</div></div>'
        "</header>"
    )
    one = len(inspection.samples) == 1
    main = samples_html(
        inspection.samples,
        title="Response, token by token" if one else "Responses, token by token",
        large=True,
    )
    return page_html(
        inspection.title,
        header,
        main + _rules(inspection.cpl),
        f"<p>Made with {versions()}.</p>",
    )


def _figures(tokens: list[TokenView]) -> str:
    """What selected and other tokens have in common, as key figures."""
    chosen = [token for token in tokens if token.selected]
    figures = [
        (
            "Perception tokens",
            f"{len(chosen)} of {len(tokens)}",
            "of all tokens, selected by entropy gain",
        )
    ]
    for label, key, words in (
        ("Entropy gain", "gain", "mean of the perception tokens, 0 to 1"),
        (
            "KL to the positive view",
            "positive_divergence",
            "mean of the perception tokens, nats; small: the view keeps what they read",
        ),
        (
            "KL to the negative view",
            "negative_divergence",
            "mean of the perception tokens, nats; large: the view takes it away",
        ),
    ):
        values = [getattr(token, key) for token in chosen]
        known = [value for value in values if value is not None]
        if known:
            figures.append((label, number(sum(known) / len(known)), words))
    return "".join(
        f'<section class="card"><h2 class="label">{label}</h2>'
        f'<p class="big">{value}</p><p class="muted">{words}</p></section>'
        for label, value, words in figures
    )


def _rules(cpl: CPLConfig | None) -> str:
    if cpl is None:
        return ""
    written = yaml.safe_dump({"cpl": asdict(cpl)}, sort_keys=False)
    return (
        '<section aria-labelledby="rules"><h2 id="rules">How tokens were selected</h2>'
        '<div class="card"><p>The model predicts each token of the response three '
        "times: from the original picture (the anchor), from the positive and from the "
        "negative view. Entropy gain is the share of the entropy under the negative "
        f"view that seeing the original removes. {_SELECTED[cpl.selection]}, by the "
        "rules that training has; without advantages there is no gate, and every token "
        "counts.</p><details><summary>actor.cpl</summary>"
        f'<pre tabindex="0">{text(written)}</pre></details></div></section>'
    )
