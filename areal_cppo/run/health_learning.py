"""What keeps a policy from learning, whatever its objective: rewards, lengths, entropy.

Shares are medians of a window. Entropy and lengths are compared with the run's first
one, and may do as they like where the task is learnt, or the reward rises with them.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

from areal_cppo.run.health_history import LASTING, WINDOW, History, Once

# Of the groups. A third to a half without a signal is usual; of a fifth a run still
# learns, five times slower.
NO_SIGNAL = 0.8
REFUSED_SHARE = 0.25  # of the responses: their groups shrink, or are dropped
FEWEST_RESPONSES = 16  # of fewer a quarter is soon refused by chance
CUT_OFF = 0.25  # of the responses
JUDGES_DIFFER = 0.1  # of the responses; a few in a hundred are matters of taste
# A mean of ratios, whose expectation is 1 however stale they are, unless bounded.
WEIGHT_OFF = 1.25  # or the inverse
CLIPPED = 0.3  # of the tokens; usual are some in a thousand to some in a hundred
ENTROPY_FALL = 0.1  # of the first window's
SETTLED = 0.9  # accuracy of a task that is learnt, and needs no exploring
ENTROPY_RISE, ENTROPY_FLOOR = 3.0, 1.0  # times the first window's; nats
LENGTHS = 0.4, 2.0  # times the first window's
KEPT, RIGHT = 0.5, 0.05  # a part of the reward that is there while the other is not

REMEDY = {
    "prompt_too_long": "raise data.max_prompt_tokens or the server's context_length, "
    "or lower data.max_pixels",
    "request_failed": "look at the generation servers' logs",
    "vision_token": "the policy writes image tokens into its answers; lower the "
    "learning rate or gconfig.temperature",
    "reward_timeout": "raise reward.timeout_seconds or reward.processes, or make the "
    "reward function quicker",
    "reward_error": "the reward function raises: the run's log says what",
}

ZERO = (
    "have the reward 0 throughout, too hard or judged by what they can't meet: take "
    "easier problems, more responses a problem (gconfig.n_samples), or look at the "
    "reward function"
)
CORRECT = "are correct throughout, too easy by now: take harder problems"
BETWEEN = (
    "have one and the same reward between: a part of it may never be earned, or the "
    "responses are all alike; look at reward/... and raise gconfig.temperature"
)


class LearningWatch:
    """Each thing is said once; a cause in place of what follows from it.

    Parameters
    ----------
    history
        Each record is added to it before `look`.
    """

    def __init__(self, history: History):
        self._history = history
        self._rewarded = False
        self._counts: deque[tuple[float, dict[str, float]]] = deque(maxlen=WINDOW + 1)
        self._counts.append((0.0, {}))
        self._short = Once(
            {
                "no reward": self._no_reward,
                "equal rewards": self._equal_rewards,
                "no gradient": self._no_gradient,
                "refused": self._refused,
                "cut off": self._cut_off,
                "one part": self._one_part,
                "judges": self._judges,
                "weights": self._weights,
            }
        )
        self._once = Once(
            {
                "update skipped": _update_skipped,
                "reward raised": _reward_raised,
                "clipped": self._clipped,
                "entropy": self._entropy,
                "lengths": self._lengths,
            }
        )

    def look(self, record: dict[str, Any]) -> list[str]:
        """One line for each thing that this record, after those before, shows."""
        equal = record.get("equal_reward_groups")
        # Rewards of both signs may have a mean of 0, too.
        self._rewarded |= record.get("reward") != 0 or equal not in (None, 1.0)
        if "samples" in record and isinstance(record.get("refused"), dict):
            self._counts.append((record["samples"], record["refused"]))
        return [*self._once.lines(record), *self._short.lines(record)]

    def conclude(self, record: dict[str, Any]) -> list[str]:
        """What the few steps of a run that ends with this record show."""
        return self._short.lines(record)

    def _no_reward(self, record: dict[str, Any]) -> str | None:
        rewards = self._history.last("reward", LASTING)
        if self._rewarded or not rewards:
            return None
        samples = record.get("samples")
        of = f"all {samples:.0f} responses" if samples else "all responses"
        return (
            f"the reward is 0 for {of} since the start, so nothing can be learnt: read "
            "some of them beside the true answers (areal-cppo inspect); judge and "
            "answers may not fit (docs/rewards.md), the prompt may not ask for the "
            "format, or the problems are too hard for this model"
        )

    def _equal_rewards(self, record: dict[str, Any]) -> str | None:
        equal, zero, correct = (
            self._history.median(f"equal_reward_groups{kind}")
            for kind in ("", "_zero", "_correct")
        )
        if None in (equal, zero, correct) or equal < NO_SIGNAL or not self._rewarded:
            return None
        kinds = (zero, ZERO), (correct, CORRECT), (equal - zero - correct, BETWEEN)
        share, why = max(kinds)
        return (
            f"{equal:.0%} of the groups have no signal, as their responses all have "
            f"the same reward ({self._history.window('equal_reward_groups')}): "
            f"{share:.0%} {why}"
        )

    def _no_gradient(self, record: dict[str, Any]) -> str | None:
        norms = self._history.last("grad_norm")
        silent = self._history.median("equal_reward_groups") == 1.0
        if not norms or any(norms) or silent:
            return None
        return (
            f"the gradient is 0 for {len(norms)} steps in a row though rewards differ: "
            "the policy does not change; look at the learning rate, actor.adv_norm and "
            "reward_norm, what is frozen, and what masks tokens "
            "(actor.rejection_sampling)"
        )

    def _refused(self, record: dict[str, Any]) -> str | None:
        (before, old), (samples, new) = self._counts[0], self._counts[-1]
        lost = {reason: new.get(reason, 0) - old.get(reason, 0) for reason in REMEDY}
        refused, all_ = sum(lost.values()), samples - before + sum(lost.values())
        if len(self._counts) <= min(WINDOW, self._history.fewest) or (
            all_ < FEWEST_RESPONSES or refused <= REFUSED_SHARE * all_
        ):
            return None
        most = max(lost, key=lost.get)
        reasons = ", ".join(f"{reason} {n:.0f}" for reason, n in lost.items() if n)
        return (
            f"{refused / all_:.0%} of the responses of the last "
            f"{len(self._counts) - 1} steps were refused ({reasons}); {REMEDY[most]}"
        )

    def _cut_off(self, record: dict[str, Any]) -> str | None:
        share = self._history.median("cut_off_responses")
        if share is None or share <= CUT_OFF:
            return None
        return (
            f"{share:.0%} of the responses are cut off at gconfig.max_new_tokens "
            f"({self._history.window('cut_off_responses')}): what was still to come, "
            "an answer or the end, is not learnt; raise it, or ask for shorter ones"
        )

    def _one_part(self, record: dict[str, Any]) -> str | None:
        parts = ("reward/answer", "reward/format")
        answer, form = (self._history.last(part) for part in parts)
        if not answer or not form:
            return None
        if not any(form) and median(answer) > RIGHT:
            return (
                f"{median(answer):.0%} of the answers are right but not one response "
                "keeps the format, so that its reward is never earned: ask for it "
                "(data.instruction), or set reward.format_weight to 0"
            )
        if not any(answer) and median(form) > KEPT:
            return (
                f"{median(form):.0%} of the responses keep the format but not one "
                f"answer is right ({self._history.window('reward/answer')}): read some "
                "beside the true answers; the judge may not understand them "
                "(docs/rewards.md), or the problems are too hard"
            )
        return None

    def _judges(self, record: dict[str, Any]) -> str | None:
        share = self._history.median("reward/judges_differ")
        if share is None or share <= JUDGES_DIFFER:
            return None
        return (
            f"of {share:.0%} of the answers math-verify says otherwise than the reward "
            f"({self._history.window('reward/judges_differ')}): one of the two doesn't "
            "understand the answers of this dataset; read some (docs/rewards.md)"
        )

    def _weights(self, record: dict[str, Any]) -> str | None:
        weight = self._history.median("behaviour_importance_weight")
        if weight is None or 1 / WEIGHT_OFF <= weight <= WEIGHT_OFF:
            return None
        stale = (self._history.median("staleness_mean") or 0.0) >= 0.5
        why = (
            "the data is too stale: lower rollout.max_head_offpolicyness"
            if stale
            else "generation and training disagree about the same policy: compare "
            "actor.dtype and sglang.dtype, and look for quantization and other kernels"
        )
        return (
            f"the behaviour weight is {weight:.2g} where it should be 1 "
            f"({self._history.window('behaviour_importance_weight')}): {why}"
        )

    def _clipped(self, record: dict[str, Any]) -> str | None:
        share = self._history.median("clip_ratio")
        if share is None or share <= CLIPPED:
            return None
        return (
            f"{share:.0%} of the tokens are clipped (median of {WINDOW} steps): "
            "updates are too large; lower the learning rate or actor.ppo_n_minibatches"
        )

    def _entropy(self, record: dict[str, Any]) -> str | None:
        now, then = self._now_and_then("policy_entropy")
        if now is None:
            return None
        if now < ENTROPY_FALL * then:
            if (self._history.median("accuracy") or 0.0) >= SETTLED:
                return None
            what = (
                "fell: it no longer explores; lower the learning rate, raise "
                "actor.eps_clip_higher, or take more varied problems"
            )
        elif now > max(ENTROPY_RISE * then, ENTROPY_FLOOR):
            what = (
                "rose: it falls apart; lower the learning rate, and the weight of what "
                "drives it apart (cpl.coef, papo.gamma)"
            )
        else:
            return None
        return (
            f"the policy's entropy, {then:.2g} nats at first and now {now:.2g}, {what}"
        )

    def _lengths(self, record: dict[str, Any]) -> str | None:
        now, then = self._now_and_then("response_tokens")
        reward, at_first = self._now_and_then("reward")
        if now is None or (reward is not None and reward > at_first):
            return None
        if LENGTHS[0] * then <= now <= LENGTHS[1] * then:
            return None
        return (
            f"responses have {now:.0f} tokens where they had {then:.0f} at first, and "
            "the reward has not risen with it: read some (the report's samples); lower "
            "the learning rate, or have the reward function see what they do"
        )

    def _now_and_then(self, name: str) -> tuple[float, float] | tuple[None, None]:
        """Medians of the latest and the first window; None twice without both."""
        now, then = self._history.median(name), self._history.before(name)
        return (None, None) if now is None or then is None else (now, then)


def _reward_raised(record: dict[str, Any]) -> str | None:
    refused = record.get("refused")
    raised = refused.get("reward_error") if isinstance(refused, dict) else None
    if not raised:
        return None
    return (
        f"the reward function raised for {raised:.0f} of the responses so far, which "
        "are not trained on: the run's logs say why ('a response has no reward')"
    )


def _update_skipped(record: dict[str, Any]) -> str | None:
    if not record.get("update_skipped"):
        return None
    return (
        "an update was skipped: its gradient norm was not finite, so the step taught "
        "nothing; if update_skipped_total keeps rising, lower the learning rate or "
        "compute in a wider dtype"
    )
