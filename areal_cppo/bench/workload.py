"""How large a measured train step is: its batch, and the shape of its model.

`bench train-step --sweep KNOB` shows how the ratios depend on one knob: three arms,
AReaL's GRPO (a), ours (c) and CPPO (d), over a few values of it; the rest of the
workload stays. With another group size the number of groups changes so that the
responses stay about as many.

Imports neither torch nor AReaL: a mistake is told before they are.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from areal_cppo.errors import UserError

SPREAD = 0.25  # a response's length is the mean, up to a quarter more or less
TOKEN_SIDE = 28  # pixels, the side of the square that becomes one image token
_LEAST = {
    "image": TOKEN_SIDE,
    "prompt": 1,
    "response": 2,
    "group": 1,
    "groups": 1,
    "max_tokens": 1,
    "seed": 0,
}

SWEEPS: dict[str, tuple[float, ...]] = {
    "positive": (0.0, 0.125, 0.25, 0.5, 0.75),
    "response": (100, 200, 400, 800),
    "image": (112, 224, 448, 672),
    "group": (2, 4, 8, 16),
}
SWEEP_ARMS = "a,c,d"

# text: width, feed-forward width, layers, heads, of keys, vocabulary;
# vision: width, feed-forward width, layers, heads; its layers that see all of an image
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[int]]] = {
    "tiny": ((64, 128, 2, 4, 2, 256), (32, 64, 2, 2), [1]),
    "small": ((384, 2064, 2, 6, 1, 1536), (160, 428, 2, 4), [1]),
    "qwen2.5-vl-3b": (
        (2048, 11008, 36, 16, 2, 151936),
        (1280, 3420, 32, 16),
        [7, 15, 23, 31],
    ),
}


def check_whole(name: str, value: int, least: int, remedy: str = "correct it") -> None:
    """A UserError if the value of a field, and of the option of its name, is too
    small."""
    if value < least:
        raise UserError(
            f"--{name.replace('_', '-')}: expected an integer >= {least}, found "
            f"{value}; {remedy}"
        )


@dataclass(frozen=True)
class Workload:
    """Size of a batch; the defaults are Geometry3K's.

    Attributes
    ----------
    image
        Side of an image, pixels.
    prompt, response
        Text tokens of a prompt; tokens of a response, on average.
    group, groups
        Responses a prompt; prompts a step.
    positive
        Share of responses with a positive advantage.
    max_tokens
        Of a micro-batch, at most.
    seed
        Of tokens, pixels and weights.

    Raises
    ------
    UserError
        A value is out of range, or two of them do not go together.
    """

    image: int = 448
    prompt: int = 150
    response: int = 400
    group: int = 8
    groups: int = 2
    positive: float = 0.4
    max_tokens: int = 4096
    seed: int = 1

    def __post_init__(self) -> None:
        remedies = {
            field.name: f"give it such a value, by default {field.default!r}"
            for field in fields(self)
        }
        for name, least in _LEAST.items():
            check_whole(name, getattr(self, name), least, remedies[name])
        if not 0 <= self.positive <= 1:
            raise UserError(
                f"--positive: expected a number in [0, 1], found {self.positive:g}; "
                f"{remedies['positive']}"
            )
        if self.image % TOKEN_SIDE:
            near = self.image // TOKEN_SIDE * TOKEN_SIDE
            raise UserError(
                f"--image: expected a multiple of {TOKEN_SIDE} pixels, found "
                f"{self.image}; set {near} or {near + TOKEN_SIDE}"
            )
        most = (self.group - 1) / self.group
        if self.positive > most:
            raise UserError(
                f"--positive: expected at most {most:.3g} with --group {self.group} (a "
                "group of right responses only has no advantage), found "
                f"{self.positive:g}; set less, or a larger --group"
            )
        if self.longest > self.max_tokens:
            raise UserError(
                f"--max-tokens: expected at least {self.longest}, the longest "
                f"sequence, found {self.max_tokens}; set more"
            )

    @property
    def samples(self) -> int:
        """Responses of the batch."""
        return self.group * self.groups

    @property
    def image_tokens(self) -> int:
        """Tokens of an image."""
        return (self.image // TOKEN_SIDE) ** 2

    @property
    def prompt_tokens(self) -> int:
        """Tokens before a response: the image between its two marks, and the text."""
        return self.image_tokens + 2 + self.prompt

    @property
    def shortest(self) -> int:
        """Tokens of the shortest sequence that there may be."""
        return self.prompt_tokens + int(self.response * (1 - SPREAD))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that there may be."""
        return self.prompt_tokens + int(self.response * (1 + SPREAD))

    @property
    def sequence_tokens(self) -> int:
        """Tokens of all sequences, each with its prompt."""
        return self.samples * self.prompt_tokens + sum(self.response_lengths())

    def response_lengths(self) -> list[int]:
        """Tokens of each response, in the batch's order."""
        draw = random.Random(self.seed)
        low, high = (int(self.response * (1 + s)) for s in (-SPREAD, SPREAD))
        return [draw.randint(low, high) for _ in range(self.samples)]

    def positives(self) -> list[int]:
        """Responses of each group with a positive advantage: at least the share asked
        for, as even as can be."""
        total = math.ceil(self.positive * self.samples - 1e-9)
        return [
            total * (i + 1) // self.groups - total * i // self.groups
            for i in range(self.groups)
        ]


def sweep(knob: str, workload: Workload, quick: bool) -> list[Workload]:
    """The workloads of a sweep, all checked before anything runs."""
    values = SWEEPS[knob][: 2 if quick else None]
    return [replace(workload, **_changed(knob, value, workload)) for value in values]


def _changed(knob: str, value: float, workload: Workload) -> dict[str, Any]:
    if knob != "group":
        return {knob: value}
    return {"group": value, "groups": max(1, workload.samples // value)}


def check_model(name: str) -> None:
    """A UserError unless it is one of `SHAPES`, or a Qwen2.5-VL's config.json, or the
    folder of one."""
    if name in SHAPES:
        return
    expected = f"--model: expected one of {', '.join(SHAPES)}, or a config.json"
    file = Path(name)
    if not file.exists():
        raise UserError(f"{expected}, found {name!r}; give the path of one")
    try:
        text = (file / "config.json" if file.is_dir() else file).read_text()
        kind = json.loads(text).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{expected}, found {name!r}: {reason}") from error
    if kind != "qwen2_5_vl":
        raise UserError(f"{expected} of a qwen2_5_vl, found {kind!r}; give another")
