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
from typing import Any

import numpy as np

from areal_cppo.errors import UserError
from areal_cppo.plan.distributions import Distribution, parse_distribution
from areal_cppo.plan.fields import Fields, number, show

VERSION = 1


@dataclass(frozen=True)
class ServerRates:
    """One generation server; see the module's header."""

    gpus: int
    slots: int
    decode: tuple[tuple[float, float], ...]
    prefill_tokens_per_second: float
    request_seconds: float
    prefill_seconds: float = 0.0
    prefix_caching: bool = False

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
class TrainerRates:
    """The trainer; see the module's header."""

    gpus: int
    step_seconds: float
    token_seconds: float
    sync_seconds: float

    def seconds(self, tokens: float, ranks: int) -> float:
        """Of a step that trains `tokens` tokens, spread evenly over `ranks` ranks."""
        return (
            self.step_seconds
            + self.token_seconds * tokens / ranks
            + self.sync_seconds * log2(ranks)
        )


@dataclass(frozen=True)
class WeightRates:
    """A weight update; see the module's header."""

    update_seconds: float
    resume_seconds: float = 0.0


@dataclass(frozen=True)
class Contention:
    """What sharing processors costs; see the module's header."""

    server_slowdown: float = 1.0
    trainer_slowdown: float = 1.0


@dataclass(frozen=True)
class Rates:
    """A rates file; see the module's header."""

    server: ServerRates
    trainer: TrainerRates
    weights: WeightRates
    reward_seconds: float
    prompt_tokens: Distribution
    response_tokens: Distribution
    contention: Contention = Contention()
    measured: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `parse_rates` reads."""
        return {
            "version": VERSION,
            "server": asdict(self.server),
            "trainer": asdict(self.trainer),
            "weights": asdict(self.weights),
            "contention": asdict(self.contention),
            "reward_seconds": self.reward_seconds,
            "prompt_tokens": self.prompt_tokens.as_json(),
            "response_tokens": self.response_tokens.as_json(),
            "measured": dict(self.measured),
        }


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
    fields = Fields(document, name)
    version = fields.take("version")
    if version != VERSION or isinstance(version, bool):
        raise UserError(
            f"{name}: expected version {VERSION}, found {show(version)}; write it "
            "again with this version of areal-cppo"
        )
    rates = Rates(
        server=_server(fields.inner("server")),
        trainer=_trainer(fields.inner("trainer")),
        weights=_weights(fields.inner("weights")),
        contention=_contention(fields.inner("contention", {})),
        reward_seconds=fields.number("reward_seconds"),
        prompt_tokens=parse_distribution(fields.inner("prompt_tokens")),
        response_tokens=parse_distribution(fields.inner("response_tokens")),
        measured=_measured(fields.take("measured", {}), fields.name("measured")),
    )
    fields.finish()
    return rates


def _server(fields: Fields) -> ServerRates:
    server = ServerRates(
        gpus=fields.whole("gpus"),
        slots=fields.whole("slots"),
        decode=_curve(fields.take("decode"), fields.name("decode")),
        prefill_tokens_per_second=fields.number(
            "prefill_tokens_per_second", above=True
        ),
        prefill_seconds=fields.number("prefill_seconds", 0.0),
        request_seconds=fields.number("request_seconds"),
        prefix_caching=fields.flag("prefix_caching", False),
    )
    fields.finish()
    return server


def _curve(points: Any, name: str) -> tuple[tuple[float, float], ...]:
    if not isinstance(points, list) or not points:
        raise UserError(
            f"{name}: expected a list of [running requests, tokens/s], found "
            f"{show(points)}; give at least one point"
        )
    curve: list[tuple[float, float]] = []
    for i, point in enumerate(points):
        at = f"{name}[{i}]"
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise UserError(
                f"{at}: expected [running requests, tokens/s], found {show(point)}; "
                "correct it"
            )
        running = number(point[0], f"{at}[0]", above=True)
        if curve and running <= curve[-1][0]:
            raise UserError(
                f"{at}[0]: expected more running requests than the point before has "
                f"({curve[-1][0]:g}), found {running:g}; sort the points"
            )
        curve.append((running, number(point[1], f"{at}[1]", above=True)))
    return tuple(curve)


def _trainer(fields: Fields) -> TrainerRates:
    trainer = TrainerRates(
        gpus=fields.whole("gpus"),
        step_seconds=fields.number("step_seconds"),
        token_seconds=fields.number("token_seconds"),
        sync_seconds=fields.number("sync_seconds", 0.0),
    )
    fields.finish()
    if not trainer.step_seconds and not trainer.token_seconds:
        raise UserError(
            f"{fields.path}: expected step_seconds or token_seconds > 0, found 0 for "
            "both; a train step takes time"
        )
    return trainer


def _weights(fields: Fields) -> WeightRates:
    weights = WeightRates(
        update_seconds=fields.number("update_seconds"),
        resume_seconds=fields.number("resume_seconds", 0.0),
    )
    fields.finish()
    return weights


def _contention(fields: Fields) -> Contention:
    contention = Contention(
        server_slowdown=fields.number("server_slowdown", 1.0, least=1.0),
        trainer_slowdown=fields.number("trainer_slowdown", 1.0, least=1.0),
    )
    fields.finish()
    return contention


def _measured(value: Any, name: str) -> dict[str, str]:
    texts = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if not texts:
        raise UserError(
            f"{name}: expected an object of texts (command, machine, date), found "
            f"{show(value)}; correct it"
        )
    return value
