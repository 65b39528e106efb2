"""The perturbations by name, and the parser of their configuration."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from areal_cppo.core.checks import refusal
from areal_cppo.core.perturbation import Perturbation
from areal_cppo.core.preserving import (
    ColorJitter,
    GaussianBlur,
    Perspective,
    Rotation,
)
from areal_cppo.core.removing import (
    BlackSquares,
    Blank,
    Noise,
    NoisePatches,
    ZoomCrop,
)

PERTURBATIONS: dict[str, type[Perturbation]] = {
    cls.name: cls
    for cls in (
        ColorJitter,
        Perspective,
        Rotation,
        GaussianBlur,
        NoisePatches,
        ZoomCrop,
        BlackSquares,
        Blank,
        Noise,
    )
}


def parse_perturbations(
    specs: Sequence[Mapping[str, Any]], field: str = "views"
) -> tuple[Perturbation, ...]:
    """Turn configured mappings into perturbations.

    Args:
        specs: at least one mapping with a ``name`` of :data:`PERTURBATIONS` and any of
            that perturbation's parameters; the rest take their defaults.
        field: path of the list in an error, such as ``cpl.views.negative``.

    Returns:
        One perturbation per mapping, in order.

    Raises:
        ValueError: one line naming the entry, what it should be and how to mend it.
    """
    known = ", ".join(sorted(PERTURBATIONS))
    is_list = isinstance(specs, Sequence) and not isinstance(specs, str)
    if not is_list or not specs:
        fix = f"list mappings with a name, one of {known}"
        raise refusal(field, "at least one perturbation", specs, fix)
    parsed = []
    for index, spec in enumerate(specs):
        where = f"{field}[{index}]"
        if not isinstance(spec, Mapping):
            fix = "write it as name: ... and its parameters"
            raise refusal(where, "a mapping with a name", spec, fix)
        cls = PERTURBATIONS.get(str(spec.get("name")))
        if cls is None:
            fix = "correct the name"
            raise refusal(f"{where}.name", f"one of {known}", spec.get("name"), fix)
        parameters = {key: value for key, value in spec.items() if key != "name"}
        names = sorted(parameter.name for parameter in dataclasses.fields(cls))
        for key in parameters:
            if key not in names:
                expected = f"a parameter of {cls.name} ({', '.join(names)})"
                raise refusal(where, expected, key, "correct or remove it")
        try:
            parsed.append(cls(**parameters))
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
    return tuple(parsed)
