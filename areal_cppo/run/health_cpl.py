"""What goes wrong with CPL, and with the views that all objectives but GRPO have.

The shortcut: CPL rewards every selected token whose prediction changes under the
negative view, so a policy can learn to change *every* token as soon as it recognises
the perturbation. Then entropy rises everywhere, ever more tokens are selected, and even
the tokens that are not selected (names, template) move away from the anchor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from statistics import quantiles
from typing import Any

from areal_cppo.run.health_history import LASTING, WINDOW, History, Once

# With a fresh mix of negatives the share stayed within a tenth of where it began over
# 60 updates; where the shortcut was learnt it tripled.
SHARE_RISE = 1.25
# Near its ceiling the share cannot rise by a quarter, but half of the room can go.
ROOM_TAKEN = 0.5
LEAST_RISE = 0.03  # of the gated tokens: one token in a response of 35
DIVERGENCE_RISE = 2.0  # it rose 500-fold where the shortcut was learnt
# Nats. Up to here two distributions differ by at most sqrt(0.05 / 2) = 0.16 in the
# probability of anything (Pinsker): no token is really changed, however steep the rise.
DIVERGENCE_FLOOR = 0.05
FEWEST_IMAGES = 30  # of so few half is hardly exceeded by chance
UNCHANGED_SHARE = 0.5  # beyond it most responses have no negative to learn from
LOW_SAMPLE_SHARE = 0.25  # a quarter of the tokens has all the say
# Of the views' differences, with the wrong sign: 1 % with views that the tiny model can
# read, 5 to 8 % with the published ones, which pushed right answers down. It takes a
# margin of some tau, so that the tokens of the right sign have little weight.
INVERTED_SHARE = 0.04
INVERTED_TAUS = 3.0
# Nats, at the tokens that the view moves most: no probability moves by more than 0.02.
# The tiny model that reads its pictures has half a nat.
BLIND = 1e-3

SHARE, PER_RESPONSE = "cpl_selected_share", "cpl_selected_per_response"
DIVERGENCE = "cpl_unselected_divergence"
# How far the negative view moves the prediction. CPL without perception tokens has but
# the gains, as shares of the entropy.
MOVED = (
    *("cpl_negative_divergence", "cpl_gain_p90"),
    *("papo_divergence", "vppo_dependency", "dvrp_negative_divergence"),
    "pgpo_dependency",
)


class CPLWatch:
    """Looks at records without CPL, too, and says nothing of them.

    Parameters
    ----------
    history
        Each record is added to it before `look`.
    top_fraction
        `cpl.top_fraction`, the ceiling of the selected share.
    tau
        `cpl.tau`.
    """

    def __init__(self, history: History, top_fraction: float, tau: float):
        self._history, self._tau = history, tau
        self._shortcut = _Shortcut(top_fraction)
        self._short = Once({"nothing gated": self._nothing_gated, "blind": self._blind})
        self._once = Once(
            {
                "non-finite": _non_finite,
                "unchanged": self._unchanged,
                "few count": self._few_count,
                "inverted": self._inverted,
            }
        )

    def look(self, record: dict[str, Any]) -> list[str]:
        """One line for each thing that this record, after those before, shows."""
        shortcut = self._shortcut.look(record)
        lines = [] if shortcut is None else [shortcut]
        return [*lines, *self._once.lines(record), *self._short.lines(record)]

    def conclude(self, record: dict[str, Any]) -> list[str]:
        """What the few steps of a run that ends with this record show."""
        return self._short.lines(record)

    def _unchanged(self, record: dict[str, Any]) -> str | None:
        views = "cpl_negative_views"
        images, unchanged = (
            sum(self._history.last(name, fewest=1))
            for name in (views, f"{views}_unchanged")
        )
        if images < FEWEST_IMAGES or unchanged <= UNCHANGED_SHARE * images:
            return None
        return (
            f"the negative view equals its image in {unchanged:.0f} of the last "
            f"{images:.0f} images: such responses are left out of CPL; raise strength "
            "and probability of the perturbations in cpl.views.negative"
        )

    def _nothing_gated(self, record: dict[str, Any]) -> str | None:
        gated = self._history.last("cpl_gated_responses")
        if not gated or any(gated) or record.get("equal_reward_groups") == 1.0:
            return None  # without a signal there is no gate, and that is said already
        why = "no response has an image and a token with advantage > 0"
        if record.get("cpl_text_only_responses"):
            why = "the responses that pass the gate have no image"
        if record.get("cpl_unchanged_responses"):
            why = "no negative view differs from its image"
        return (
            f"CPL did nothing for {len(gated)} steps in a row: {why}; look at "
            "cpl.gate, at the spread of the rewards within groups, and at the data's "
            "images"
        )

    def _blind(self, record: dict[str, Any]) -> str | None:
        found = ((name, self._history.median(name)) for name in MOVED)
        name, value = next((item for item in found if item[1] is not None), ("", BLIND))
        if value >= BLIND:
            return None
        return (
            "the policy answers the same without its image: the negative view moves "
            f"its prediction by {value:.1g} ({name}, {self._history.window(name)}), so "
            f"{name.split('_')[0].upper()} finds nothing that reads it; look at the "
            "views (areal-cppo views) and at the tokens (areal-cppo inspect): either "
            "the view hides too little, or the questions can be answered without their "
            "images"
        )

    def _few_count(self, record: dict[str, Any]) -> str | None:
        typical = self._history.median("cpl_effective_sample_share")
        if typical is None or typical >= LOW_SAMPLE_SHARE:
            return None
        return (
            f"the staleness weights leave CPL an effective sample of {typical:.0%} of "
            f"its perception tokens (median of {WINDOW} steps): few tokens have all "
            "the say; lower rollout.max_head_offpolicyness or "
            "cpl.staleness.importance_cap, or raise cpl.staleness.max_staleness if "
            "cpl_stale_dropped_share is high"
        )

    def _inverted(self, record: dict[str, Any]) -> str | None:
        margin, inverted = (
            sum(self._history.last(name))
            for name in ("cpl_margin", "cpl_inverted_margin")
        )
        both = margin + 2 * inverted  # the differences of both signs, as sizes
        if (
            inverted <= INVERTED_SHARE * both
            or both < INVERTED_TAUS * self._tau * WINDOW
        ):
            return None
        return (
            f"at perception tokens {inverted / both:.0%} of the difference between the "
            f"views has the wrong sign, and the rest is so far beyond cpl.tau "
            f"({self._tau:g}) that it has little weight: CPL draws the policy to what "
            "positive views misread; use milder perturbations in cpl.views.positive, "
            "or a larger cpl.tau (docs/evidence.md)"
        )


def _non_finite(record: dict[str, Any]) -> str | None:
    tokens, passes, responses = (
        record.get(f"cpl_{name}") or 0
        for name in ("nonfinite_tokens", "skipped_micro_batches", "skipped_responses")
    )
    if not (tokens or passes or responses):
        return None
    return (
        f"CPL met values that are not finite ({tokens:.0f} tokens) and was left out "
        f"for {responses:.0f} responses; the policy loss went on without it. If "
        "cpl_nonfinite_tokens_total keeps rising, lower cpl.coef or the learning rate, "
        "or compute in a wider dtype"
    )


@dataclass(frozen=True)
class _Spread:
    """Quartiles of a metric over the steps of a window."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> _Spread:
        return cls(*quantiles(values, n=4))

    def above(self, other: _Spread) -> bool:
        """Whether the two do not even overlap: a rise that noise does not make."""
        return self.low > other.high


class _Shortcut:
    """Compares the latest window with the run's first one.

    Both the selected share and the divergence of the tokens that were not selected must
    have risen. The share alone rises too when a policy becomes more certain of what it
    reads, the divergence alone when it comes to look at the image more. And tokens per
    response must have risen, since the share also rises when responses become shorter.
    """

    def __init__(self, ceiling: float):
        self._ceiling = ceiling
        self._recent: deque[tuple[float, ...]] = deque(maxlen=WINDOW)
        self._first: dict[str, _Spread] | None = None
        self._alarm: dict[str, float] = {}  # medians from which on there is a warning
        self._steps_risen = 0  # in a row

    def look(self, record: dict[str, Any]) -> str | None:
        names = ("step", SHARE, PER_RESPONSE, DIVERGENCE)
        values = tuple(record.get(name) for name in names)
        if not all(value is not None and isfinite(value) for value in values):
            return None
        self._recent.append(values)
        if len(self._recent) < WINDOW:
            return None
        columns = zip(*self._recent, strict=True)
        now = {
            name: _Spread.of(column)
            for name, column in zip(names, columns, strict=True)
        }
        if self._first is None:
            self._first, self._alarm = now, self._first_alarm(now)
            self._recent.clear()  # windows that are compared share no step
            return None
        first = self._first
        risen = all(now[n].above(first[n]) for n in (SHARE, PER_RESPONSE, DIVERGENCE))
        risen &= all(now[name].median >= least for name, least in self._alarm.items())
        self._steps_risen = self._steps_risen + 1 if risen else 0
        if self._steps_risen < LASTING:
            return None
        self._steps_risen = 0
        self._alarm = {
            SHARE: first[SHARE].median + 2 * (now[SHARE].median - first[SHARE].median),
            DIVERGENCE: 2 * now[DIVERGENCE].median,
        }
        return _shortcut_line(first, now)

    def _first_alarm(self, first: dict[str, _Spread]) -> dict[str, float]:
        share, divergence = first[SHARE].median, first[DIVERGENCE].median
        room = ROOM_TAKEN * (self._ceiling - share)
        return {
            SHARE: share + min((SHARE_RISE - 1) * share, max(room, LEAST_RISE)),
            DIVERGENCE: max(DIVERGENCE_RISE * divergence, DIVERGENCE_FLOOR),
        }


def _shortcut_line(before: dict[str, _Spread], now: dict[str, _Spread]) -> str:
    was, is_ = (
        {name: spread.median for name, spread in window.items()}
        for window in (before, now)
    )
    return (
        "CPL may be teaching a shortcut, to change every token once the negative view "
        f"is recognised: from around step {was['step']:.0f} to around step "
        f"{is_['step']:.0f} the selected share of tokens rose from {was[SHARE]:.1%} to "
        f"{is_[SHARE]:.1%} ({was[PER_RESPONSE]:.1f} to {is_[PER_RESPONSE]:.1f} per "
        "response) and the divergence of tokens not selected from "
        f"{was[DIVERGENCE]:.2g} to {is_[DIVERGENCE]:.2g} nats; use a fresh mix of "
        "negatives (cpl.views.negative), cpl.grad: [anchor], a smaller cpl.coef or no "
        "cpl.min_gain"
    )
