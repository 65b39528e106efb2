"""Responses whose selection fails most, kept with their pictures to be looked at."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score

from areal_cppo.core import CPLConfig, PatchLayout
from areal_cppo.inspection.page import Inspection, inspection_html
from areal_cppo.inspection.views import pictures
from areal_cppo.report.samples import SampleView, TokenView, write_samples
from areal_cppo.studies.tokens import PERCEPTION, Measures, Responses
from areal_cppo.tasks.pixels import prompt_grids, split_pixels
from areal_cppo.tasks.responses import boxed_answer


def worst(
    responses: Responses,
    measures: Measures,
    views: Mapping[str, torch.Tensor],
    layout: PatchLayout,
    count: int,
    *,
    title: str,
    policy: str,
) -> list[SampleView]:
    """The `count` responses with the lowest F1 of selected against true tokens.

    Parameters
    ----------
    responses, measures
        Of all tokens.
    views
        `positive` and `negative` pictures `[sum of P, 1176]`.
    layout
        Of the pictures.
    count
        Of responses; ties go to the earlier problem.
    title
        Begins each sample's title.
    policy
        `before` or `after` training.
    """
    bounds = np.concatenate([[0], np.cumsum(responses.lengths.numpy())])
    spans = [slice(*pair) for pair in zip(bounds[:-1].tolist(), bounds[1:].tolist())]
    truth = responses.roles == PERCEPTION
    quality = [
        f1_score(truth[span], measures.selected[span], zero_division=1.0)
        for span in spans
    ]
    order = np.argsort(quality, kind="stable")[:count]
    pixels = {
        kind: split_pixels(values, responses.prompts)
        for kind, values in {"anchor": responses.pixels, **views}.items()
    }
    samples = []
    for i in order.tolist():
        span, grid = spans[i], prompt_grids([responses.prompts[i]])
        selected, true = measures.selected[span], truth[span]
        missed, wrong = int((true & ~selected).sum()), int((selected & ~true).sum())
        problem, score = responses.problems[i], responses.scores[i]
        answer = boxed_answer("".join(responses.tokens[i]))
        samples.append(
            SampleView(
                title=f"{title}, held-out problem {i + 1}: {missed} of "
                f"{int(true.sum())} reading tokens missed, {wrong} others selected",
                prompt=f"{problem.prompt.question} (answer: {problem.answer})",
                **{
                    kind: pictures(values[i], grid, layout)[0]
                    for kind, values in pixels.items()
                },
                tokens=_tokens(responses, measures, i, span),
                correct=score.correct,
                answer="none" if answer is None else str(answer),
                reward=score.reward,
                policy=policy,
            )
        )
    return samples


def write(
    folder: Path, samples: list[SampleView], cpl: CPLConfig, *, title: str
) -> None:
    """Write `samples.json` and its pictures, and `failures.html` to look at, in place
    of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    write_samples(folder, samples)
    page = Inspection(
        title=f"{title}: where the selection fails most",
        facts=[f"{len(samples)} held-out responses, the worst first"],
        cpl=cpl,
        samples=samples,
    )
    (folder / "failures.html").write_text(inspection_html(page), encoding="utf-8")


def _tokens(
    responses: Responses, measures: Measures, i: int, span: slice
) -> list[TokenView]:
    return [
        TokenView(
            text=text,
            gain=float(measures.gain[at]),
            anchor_entropy=float(measures.anchor_entropy[at]),
            negative_entropy=float(measures.negative_entropy[at]),
            selected=bool(measures.selected[at]),
            role=str(responses.roles[at]),
        )
        for at, text in enumerate(responses.tokens[i], span.start)
    ]
