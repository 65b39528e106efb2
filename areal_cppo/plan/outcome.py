"""What a simulation says: figures of the steps after the warm-up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from areal_cppo.plan.setting import Setting


@dataclass(frozen=True)
class Step:
    """One train step; times in seconds since the beginning.

    Attributes
    ----------
    start, ready, trained, end
        The trainer begins to wait; has its batch; has trained; has updated weights.
    samples, tokens, response_tokens
        Trained on; `tokens` are those of prompts, too.
    staleness_tokens
        Response tokens by staleness.
    staleness_samples
        Responses by staleness of their first, oldest token.
    interrupted
        Responses that a weight update had interrupted.
    """

    start: float
    ready: float
    trained: float
    end: float
    samples: int
    tokens: int
    response_tokens: int
    staleness_tokens: dict[int, int]
    staleness_samples: dict[int, int]
    interrupted: int


class Served(NamedTuple):
    """Sums over all servers since the beginning.

    Attributes
    ----------
    generated, prefilled
        Tokens.
    busy, occupied
        Seconds in which a server ran a request; requests times seconds.
    stopped
        Seconds of weight updates, each counted once for each server.
    held_bound, held_concurrent, held_queue
        Seconds in which no group could start: see `Dispatcher.held`.
    """

    generated: int
    prefilled: int
    busy: float
    occupied: float
    stopped: float
    held_bound: float
    held_concurrent: float
    held_queue: float

    def since(self, earlier: Served) -> Served:
        """What came after `earlier`."""
        return Served(*(now - before for now, before in zip(self, earlier)))


@dataclass(frozen=True)
class Outcome:
    """The whole of a simulation; shares are of the time after the warm-up.

    Attributes
    ----------
    setting
        What was simulated.
    steps
        All of them, those of the warm-up first.
    groups
        At the end: `started`, `trained`, `waiting` (done, not trained), `under_way`.
    seconds, samples, tokens, response_tokens, generated_tokens
        After the warm-up.
    trainer_idle, trainer_busy, updating
        Shares of the trainer: waiting for a batch, computing, updating weights.
    generation_idle
        Mean share of the time in which a server ran no request, or stood still for a
        weight update.
    generation_paused
        The part of it in weight updates.
    occupancy
        Mean share of the servers' slots that were taken.
    decode_utilisation
        Generated tokens as a share of what the servers can do at their best.
    held
        Shares in which no group could start, by cause: see `Dispatcher.held`.
    interrupted
        Share of the trained responses.
    """

    setting: Setting
    steps: tuple[Step, ...]
    groups: dict[str, int]
    seconds: float
    generated_tokens: int
    prefilled_tokens: int
    generation_idle: float
    generation_paused: float
    occupancy: float
    decode_utilisation: float
    held: dict[str, float]

    @classmethod
    def of(
        cls,
        setting: Setting,
        steps: list[Step],
        groups: dict[str, int],
        served: Served,
        best: float,
        slots: int,
    ) -> Outcome:
        """From sums after the warm-up; `best` tokens/s of all servers together."""
        begin = steps[setting.warmup - 1].end if setting.warmup else 0.0
        seconds = steps[-1].end - begin
        whole = seconds * setting.servers
        return cls(
            setting=setting,
            steps=tuple(steps),
            groups=groups,
            seconds=seconds,
            generated_tokens=served.generated,
            prefilled_tokens=served.prefilled,
            generation_idle=max(0.0, 1 - served.busy / whole),
            generation_paused=served.stopped / whole,
            occupancy=served.occupied / (whole * slots),
            decode_utilisation=served.generated / (seconds * best),
            held={
                "concurrent": served.held_concurrent / seconds,
                "bound": served.held_bound / seconds,
                "queue": served.held_queue / seconds,
            },
        )

    @property
    def counted(self) -> tuple[Step, ...]:
        """The steps after the warm-up."""
        return self.steps[self.setting.warmup :]

    @property
    def samples(self) -> int:
        return sum(step.samples for step in self.counted)

    @property
    def samples_per_second(self) -> float:
        """Trained."""
        return self.samples / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Response tokens trained on."""
        return sum(step.response_tokens for step in self.counted) / self.seconds

    @property
    def step_seconds(self) -> float:
        """On average."""
        return self.seconds / len(self.counted)

    @property
    def trainer_idle(self) -> float:
        return sum(step.ready - step.start for step in self.counted) / self.seconds

    @property
    def trainer_busy(self) -> float:
        return sum(step.trained - step.ready for step in self.counted) / self.seconds

    @property
    def updating(self) -> float:
        return sum(step.end - step.trained for step in self.counted) / self.seconds

    @property
    def interrupted(self) -> float:
        return sum(step.interrupted for step in self.counted) / self.samples

    def histogram(self, of: str = "tokens") -> dict[int, int]:
        """Tokens, or `samples`, by staleness, of the counted steps."""
        total: dict[int, int] = {}
        for step in self.counted:
            for staleness, count in getattr(step, f"staleness_{of}").items():
                total[staleness] = total.get(staleness, 0) + count
        return dict(sorted(total.items()))

    @property
    def max_staleness(self) -> int:
        """Of any token, of the counted steps."""
        return max(self.histogram())

    @property
    def mean_staleness(self) -> float:
        """Of a token."""
        counts = self.histogram()
        return sum(k * n for k, n in counts.items()) / sum(counts.values())

    def as_json(self) -> dict[str, Any]:
        """All of it; times in seconds, shares as fractions."""
        setting = asdict(self.setting) | {
            "speeds": {str(k): v for k, v in self.setting.speeds.items()}
        }
        figures = (
            "seconds",
            "samples",
            "samples_per_second",
            "tokens_per_second",
            "step_seconds",
            "trainer_idle",
            "trainer_busy",
            "updating",
            "generation_idle",
            "generation_paused",
            "occupancy",
            "decode_utilisation",
            "held",
            "interrupted",
            "max_staleness",
            "mean_staleness",
            "generated_tokens",
            "prefilled_tokens",
            "groups",
        )
        return {
            "setting": setting,
            **{name: getattr(self, name) for name in figures},
            "staleness_tokens": self.histogram("tokens"),
            "staleness_samples": self.histogram("samples"),
            "steps": [asdict(step) for step in self.steps],
        }
