"""One response of a model, judged token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from areal_cppo.inspection.model import Question, VisionModel
from areal_cppo.inspection.picture_input import side_by_side
from areal_cppo.inspection.settings import Settings
from areal_cppo.inspection.tokens import judge, token_views
from areal_cppo.inspection.views import VIEW_KINDS, Views
from areal_cppo.report.samples import SampleView
from areal_cppo.rewards.answers import final_answer
from areal_cppo.rewards.format import without_end

# From a response's text to its reward and whether it is right; None: it was refused.
Grade = Callable[[str], tuple[float, bool] | tuple[None, None]]
Roles = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Asking:
    """How a response is got.

    Attributes
    ----------
    response
        One that is given; `None` to generate one.
    limit
        Tokens of a generated one at most.
    temperature
        That it is sampled at; 0 is greedy.
    seed
        Of the sampling.
    """

    response: str | None = None
    limit: int = 512
    temperature: float = 0.0
    seed: int = 1

    @property
    def words(self) -> str:
        """For people."""
        if self.response is not None:
            return "a given response"
        if self.temperature == 0:
            return "greedy response"
        return f"response sampled at temperature {self.temperature:g}"


def inspect_response(
    model: VisionModel,
    question: Question,
    asking: Asking,
    settings: Settings,
    *,
    title: str,
    prompt: str,
    policy: str | None = None,
    grade: Grade | None = None,
    roles: Roles | None = None,
) -> SampleView:
    """Get a response and judge its tokens, as training would.

    Parameters
    ----------
    title, prompt
        What the page says above it.
    policy
        `before` or `after` training, if it is of a run.
    grade
        Says what the response is worth, where that is known.
    roles
        Says what each token does, where that is known.
    """
    ids = _response(model, question, asking)
    views = Views.draw(
        question.pixel_values,
        question.grid,
        model.input.layout,
        settings.cpl.views,
        settings.seed,
    )
    numbers = judge(
        {
            kind: model.logits(question, ids, pixels)
            for kind, pixels in views.pixels.items()
        },
        ids,
        settings.cpl,
        asking.temperature or settings.temperature,
        settings.seed,
    )
    pieces = model.pieces(ids)
    text = model.processor.tokenizer.decode(ids, skip_special_tokens=True)
    reward, correct = grade(text) if grade else (None, None)
    return SampleView(
        title=title,
        prompt=prompt,
        tokens=token_views(pieces, numbers, roles(pieces) if roles else None),
        correct=correct,
        answer=final_answer(without_end(text)) or "",
        reward=reward,
        policy=policy,
        notes=tuple(_notes(model, ids, asking, views)),
        perturbations={kind: ", ".join(views.names(kind)) for kind in VIEW_KINDS},
        **_pictures(views),
    )


def _response(model: VisionModel, question: Question, asking: Asking) -> torch.Tensor:
    if asking.response is not None:
        return model.read(asking.response)
    return model.generate(question, asking.limit, asking.temperature, asking.seed)


def _pictures(views: Views) -> dict[str, Image.Image]:
    return {kind: side_by_side(views.pictures(kind)) for kind in views.pixels}


def _notes(
    model: VisionModel, ids: torch.Tensor, asking: Asking, views: Views
) -> Sequence[str]:
    if asking.response is None and int(ids[-1]) not in model.ends:
        yield f"Cut off after {len(ids)} tokens (--max-new-tokens)."
    for kind in VIEW_KINDS:
        same = sum(views.unchanged[kind])
        if not same:
            continue
        which = "" if len(views.grid) == 1 else f" of {same} of the pictures"
        meaning = ""
        if kind == "negative" and same == len(views.grid):
            meaning = "; in training this response would enter no view pass"
        yield f"The {kind} view{which} equals the original{meaning}."
