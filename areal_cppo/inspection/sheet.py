"""The contact sheet: what each configured perturbation makes of a picture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from numbers import Number

import torch
from PIL import Image

from areal_cppo.core import (
    PatchLayout,
    Perturbation,
    ViewsConfig,
    parse_perturbations,
    perturb_pixel_values,
)
from areal_cppo.inspection.views import VIEW_KINDS, pictures

KIND_WORDS = {
    "positive": ("+", "Positive views", "keep the information"),
    "negative": ("\u2212", "Negative views", "remove information"),
}


@dataclass(frozen=True)
class Draw:
    """One view, and whether it equals the picture."""

    image: Image.Image
    unchanged: bool


@dataclass(frozen=True)
class Strip:
    """Draws of one perturbation.

    Attributes
    ----------
    kind
        positive or negative.
    name
        As in the configuration.
    settings
        Its strengths in words, one a line: `brightness 0.2 to 1.3`.
    """

    kind: str
    name: str
    settings: list[str]
    draws: list[Draw]


@dataclass(frozen=True)
class Sheet:
    """All of the contact sheet.

    Attributes
    ----------
    title, facts
        In words: the picture's name, and what was done.
    anchor
        The picture as the model sees it.
    strips
        The positive ones, then the negative ones.
    """

    title: str
    facts: list[str]
    anchor: Image.Image
    strips: list[Strip]


def make_strips(
    pixel_values: torch.Tensor,
    grid: torch.Tensor,
    layout: PatchLayout,
    config: ViewsConfig,
    draws: int,
    seed: int,
) -> list[Strip]:
    """Draw views of one picture by each perturbation of a configuration.

    Draw `i` is the view that training would make of the picture at policy version `i`
    if the perturbation were the only one of its list.

    Parameters
    ----------
    pixel_values, grid, layout
        The picture, patched (`areal_cppo.core.patchify`).
    config
        `actor.cpl.views`.
    draws
        Views of each perturbation.
    seed
        `actor.view_seed`.
    """

    def draw(kind: str, perturbation: Perturbation, version: int) -> Draw:
        view = perturb_pixel_values(
            pixel_values,
            grid,
            layout,
            [perturbation],
            kind=kind,
            run_seed=seed,
            policy_version=version,
        )
        (image,) = pictures(view.pixel_values, grid, layout)
        return Draw(image, bool(view.unchanged[0]))

    return [
        Strip(
            kind,
            perturbation.name,
            strengths(perturbation),
            [draw(kind, perturbation, version) for version in range(draws)],
        )
        for kind in VIEW_KINDS
        for perturbation in parse_perturbations(getattr(config, kind))
    ]


def strengths(perturbation: Perturbation) -> list[str]:
    """A perturbation's parameters in words; its probability where it is not 1."""
    values = {
        field.name: getattr(perturbation, field.name)
        for field in dataclasses.fields(perturbation)
    }
    if values["probability"] == 1:
        del values["probability"]
    values["probability"] = values.pop("probability", None)  # comes last
    return [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in values.items()
        if value is not None
    ]


def _value(value: Number | tuple[float, float]) -> str:
    if isinstance(value, tuple):
        return " to ".join(f"{end:g}" for end in value)
    return f"{value:g}"
