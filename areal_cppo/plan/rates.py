"""The rates file: how fast servers generate, the trainer trains, weights travel.

`areal-cppo bench async --rates FILE` writes one of measured rates; one can be written
by hand. JSON, version 1; fields marked `=` may be left out and then have that value:

    version     1
    server      one generation server
      gpus                       GPUs it occupies, >= 1
      slots                      requests it runs at a time; others wait in its queue
      decode                     [[running requests, tokens/s of the server], ...] by
                                 rising number; between two points interpolated, below
                                 the first one at that point's speed of a request, above
                                 the last one constant
      prefill_tokens_per_second  of prompts; meanwhile nothing is decoded
      prefill_seconds = 0        in addition, for each request
      request_seconds            a request spends that elsewhere (HTTP, images) before
                                 it reaches the server's queue; requests side by side
      prefix_caching = false     of the responses to a prompt only the first is charged
                                 for the prompt's tokens
    trainer     seconds of a step on n ranks that train T tokens, prompts included:
                step_seconds + token_seconds * T / n + sync_seconds * log2(n)
      gpus                       GPUs of one data-parallel rank (tensor, pipeline and
                                 context parallel ones together), >= 1
      step_seconds, token_seconds, sync_seconds
      micro_batch_seconds = 0      a micro-batch takes at least that where there are
                                   several ranks, for it gathers all weights and reduces
                                   all gradients: a token then takes no less than
                                   micro_batch_seconds / micro_batch_tokens
      micro_batch_tokens = 16384   of a micro-batch
    weights
      update_seconds             servers are stopped and load the new weights
      resume_seconds = 0         from then until interrupted requests are back
    contention = none            trainer and servers that share processors
      server_slowdown = 1        while the trainer computes a server is so many times
                                 slower
      trainer_slowdown = 1       and the trainer, while anything is generated
    reward_seconds               of a response; responses side by side
    prompt_tokens, response_tokens
                                 distributions: see `areal_cppo.plan.distributions`
    measured    where the numbers come from: text fields `command`, `machine`, `date`,
                and any others
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import log2
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator, TypeAdapter

from areal_cppo.errors import UserError
from areal_cppo.plan.distributions import Distribution
from areal_cppo.plan.fields import (
    AtLeastOne,
    Count,
    Flag,
    NotNegative,
    Positive,
    Strict,
    Texts,
    read_as,
    refusal,
    show,
)

VERSION = 1


def _pair(point: Any) -> Any:
    if not isinstance(point, list | tuple) or len(point) != 2:
        raise refusal("[running requests, tokens/s]")
    return point


def _points(points: Any) -> Any:
    if not isinstance(points, list | tuple) or not points:
        raise refusal(
            "a list of [running requests, tokens/s]", "give at least one point"
        )
    return points


def _rising(curve: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    for i, ((before, _), (running, _)) in enumerate(zip(curve, curve[1:]), start=1):
        if running <= before:
            raise refusal(
                f"more running requests than the point before has ({before:g})",
                "sort the points",
                at=f"[{i}][0]",
                found=f"{running:g}",
            )
    return curve


_Point = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]
_Curve = Annotated[
    tuple[_Point, ...], BeforeValidator(_points), AfterValidator(_rising)
]


@dataclass(frozen=True)
class ServerRates(Strict):
    """One generation server; see the module's header."""

    gpus: Count
    slots: Count
    decode: _Curve
    prefill_tokens_per_second: Positive
    request_seconds: NotNegative
    prefill_seconds: NotNegative = 0.0
    prefix_caching: Flag = False

    def tokens_per_second(self, running: float) -> float:
        """Of the server, with so many requests running."""
        if running <= 0:
            return 0.0
        first, rate = self.decode[0]
        if running < first:
            return rate * running / first
        points, rates = zip(*self.decode)
        return float(np.interp(running, points, rates))

    @property
    def best_tokens_per_second(self) -> float:
        """The most that any number of running requests up to `slots` gives."""
        inside = [rate for running, rate in self.decode if running <= self.slots]
        return max([*inside, self.tokens_per_second(self.slots)])


@dataclass(frozen=True)
class TrainerRates(Strict):
    """The trainer; see the module's header."""

    gpus: Count
    step_seconds: NotNegative
    token_seconds: NotNegative
    sync_seconds: NotNegative = 0.0
    micro_batch_seconds: NotNegative = 0.0
    micro_batch_tokens: Count = 16_384

    def seconds(self, tokens: float, ranks: int) -> float:
        """Of a step that trains `tokens` tokens, spread evenly over `ranks` ranks."""
        token = self.token_seconds
        if ranks > 1:
            token = max(token, self.micro_batch_seconds / self.micro_batch_tokens)
        return (
            self.step_seconds + token * tokens / ranks + self.sync_seconds * log2(ranks)
        )


def _takes_time(trainer: TrainerRates) -> TrainerRates:
    if not trainer.step_seconds and not trainer.token_seconds:
        raise refusal(
            "step_seconds or token_seconds > 0",
            "a train step takes time",
            found="0 for both",
        )
    return trainer


@dataclass(frozen=True)
class WeightRates(Strict):
    """A weight update; see the module's header."""

    update_seconds: NotNegative
    resume_seconds: NotNegative = 0.0


@dataclass(frozen=True)
class Contention(Strict):
    """What sharing processors costs; see the module's header."""

    server_slowdown: AtLeastOne = 1.0
    trainer_slowdown: AtLeastOne = 1.0


@dataclass(frozen=True, kw_only=True)
class Rates(Strict):
    """A rates file; see the module's header."""

    server: ServerRates
    trainer: Annotated[TrainerRates, AfterValidator(_takes_time)]
    weights: WeightRates
    contention: Contention = Contention()
    reward_seconds: NotNegative
    prompt_tokens: Distribution
    response_tokens: Distribution
    measured: Texts = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `parse_rates` reads."""
        document = {"version": VERSION, **asdict(self)}
        for key in ("prompt_tokens", "response_tokens"):
            document[key] = {"kind": getattr(self, key).kind, **document[key]}
        return document


def _right_version(document: Any) -> Any:
    """The document without its version."""
    if not isinstance(document, dict):
        return document
    if "version" not in document:
        raise refusal("the field 'version'", "add it", found="none")
    version = document["version"]
    if version != VERSION or isinstance(version, bool):
        raise refusal(
            f"version {VERSION}",
            "write it again with this version of areal-cppo",
            found=show(version),
        )
    return {key: value for key, value in document.items() if key != "version"}


_FILE = TypeAdapter(Annotated[Rates, BeforeValidator(_right_version)])


def read_rates(path: str | Path) -> Rates:
    """Read and check a rates file.

    Raises
    ------
    UserError
        It cannot be read, or a field is missing, unknown or out of range.
    """
    expected = "expected a rates file, as areal-cppo bench async --rates writes"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{expected}, found {path}: {error.strerror}; name another"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{expected}, found {path}, which is not JSON: {error}; name another"
        ) from error
    return parse_rates(document, str(path))


def write_rates(path: str | Path, rates: Rates) -> None:
    """Write a rates file."""
    text = json.dumps(rates.as_json(), indent=1) + "\n"
    Path(path).write_text(text, encoding="utf-8")


def parse_rates(document: Any, name: str = "rates") -> Rates:
    """Check what a rates file holds; `name` is what errors call it.

    Raises
    ------
    UserError
        A field is missing, unknown or out of range.
    """
    return read_as(_FILE, document, name)
