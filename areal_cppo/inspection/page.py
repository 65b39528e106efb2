"""The pages that `inspect` and `views` write, of the run report's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import yaml

from areal_cppo.core import CPLConfig
from areal_cppo.inspection.sheet import KIND_WORDS, Sheet
from areal_cppo.report.page import number, render
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
    """The whole page of `inspect`, which needs nothing but itself."""
    cpl, samples = inspection.cpl, inspection.samples
    title = "Response" if len(samples) == 1 else "Responses"
    return render(
        "inspection.html.j2",
        inspection=inspection,
        figures=_figures([token for sample in samples for token in sample.tokens]),
        samples=samples_html(samples, f"{title}, token by token", large=True),
        selected=cpl and _SELECTED[cpl.selection],
        settings=cpl and yaml.safe_dump({"cpl": asdict(cpl)}, sort_keys=False),
    )


def sheet_html(sheet: Sheet) -> str:
    """The whole page of `views`, which needs nothing but itself."""
    families = [
        (kind, KIND_WORDS[kind], list(strips))
        for kind, strips in groupby(sheet.strips, key=lambda strip: strip.kind)
    ]
    return render("views.html.j2", sheet=sheet, families=families)


def _figures(tokens: list[TokenView]) -> list[tuple[str, str, str]]:
    """What perception tokens have in common: label, value, explanation."""
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
    return figures
