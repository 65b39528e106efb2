"""Metrics that the recorder works out, and those that AReaL records by itself."""

from __future__ import annotations

from areal_cppo.metrics import PARTS, UPDATE, Metric

SAMPLES = "cppo/samples_per_second"
TOKENS = "cppo/tokens_per_second"
IDLE = "cppo/trainer_idle_share"

_PARTS = {
    "answer": "Share of the responses trained on whose answer is right.",
    "format": "Share of the responses trained on that keep the format.",
    "judges_differ": "Share of the responses trained on of whose answer math-verify "
    "says otherwise than the reward; where it is large, one of the two doesn't "
    "understand the answers of this dataset: look at some (docs/rewards.md).",
}


def part_metric(part: str) -> Metric:
    """Of a part of the reward; a function may return any."""
    return Metric(
        f"reward/{part}",
        f"Reward: {part}",
        "",
        _PARTS.get(part, f"Mean of the reward's part {part}, before its weight."),
        key=f"cppo/{PARTS}{part}",
    )


METRICS = (
    Metric(
        "step",
        "Step",
        "",
        "Training step, from 1.",
    ),
    Metric(
        "version",
        "Policy version",
        "",
        "The policy's version when the step began: updates made before it.",
    ),
    Metric(
        "time",
        "Clock",
        "s",
        "Unix time at the end of the step.",
    ),
    Metric(
        "seconds",
        "Time",
        "s",
        "Wall time since training began.",
    ),
    Metric(
        "step_seconds",
        "Step time",
        "s",
        "Wall time of this step alone.",
    ),
    Metric(
        "samples",
        "Responses",
        "",
        "Responses trained on since the start.",
    ),
    Metric(
        "refused",
        "Refused responses",
        "responses",
        "Responses unfit to train on since the start, by reason; a rise that does not "
        "level off means that data or model is at fault.",
    ),
    Metric(
        "requests_resent",
        "Requests sent again",
        "",
        "Requests of this step that a generation server failed to answer and that were "
        "sent to another.",
    ),
    Metric(
        "problems_given_up",
        "Problems given up",
        "",
        "Problems whose group failed groups.attempts times, since the start: they are "
        "not trained on in that epoch.",
    ),
    Metric(
        "warnings",
        "Warnings",
        "",
        "What the run's watch has seen at this step, in words; absent where it has "
        "seen nothing.",
    ),
    Metric(
        "stats",
        "AReaL's statistics",
        "",
        "All that AReaL itself recorded of the step, under AReaL's own names.",
    ),
    Metric(
        "tokens_per_second",
        "Generation rate",
        "tokens/s",
        "Response tokens trained on per second of the step's wall time.",
    ),
    Metric(
        "response_tokens_histogram",
        "Response length, histogram",
        "responses",
        "Responses of the step by length: a bin is a sixteenth of actor.max_new_tokens "
        "and named by its middle, in tokens; the last one holds all beyond it too.",
    ),
    Metric(
        "samples_per_second",
        "Effective samples",
        "responses/s",
        "Responses trained on per second of the step's wall time; those thrown away "
        "don't count.",
        key=SAMPLES,
    ),
    Metric(
        "trainer_idle_share",
        "Trainer idle",
        "share",
        "Share of the step's wall time in which the trainer waited for responses; near "
        "0 when generation keeps up, large when it is the bottleneck.",
        key=IDLE,
    ),
    Metric(
        "augmented_share",
        "Augmented responses",
        "share",
        "Share of the responses that were sampled from a changed image; absent without "
        "augmentation.views.",
        key="rollout/augmented",
    ),
    Metric(
        "policy_loss",
        "Policy loss",
        "",
        "The clipped, decoupled GRPO loss; its level says little, its stability much.",
        key=f"{UPDATE}actor_loss/avg",
    ),
    Metric(
        "policy_entropy",
        "Policy entropy",
        "nats",
        "Mean entropy of the policy's token distribution; a fall to 0 means it no "
        "longer explores.",
        key=f"{UPDATE}entropy/avg",
    ),
    Metric(
        "importance_weight",
        "Importance weight",
        "",
        "Mean probability ratio of the current to the proximal policy; it stays near 1 "
        "while updates are small.",
        key=f"{UPDATE}importance_weight/avg",
    ),
    Metric(
        "behaviour_importance_weight",
        "Behaviour weight",
        "",
        "Mean probability ratio of the proximal to the behaviour policy; far from 1 "
        "means too stale data, or that generation and training disagree.",
        key=f"{UPDATE}behave_imp_weight/avg",
    ),
    Metric(
        "clip_ratio",
        "Clipped tokens",
        "share",
        "Share of response tokens whose policy loss was clipped; a large share means "
        "that updates are too large.",
        key=f"{UPDATE}clip_ratio/avg",
    ),
    Metric(
        "grad_norm",
        "Gradient norm",
        "",
        "Length of the whole gradient before clipping; sudden jumps are a bad sign.",
        key=f"{UPDATE}grad_norm",
    ),
    Metric(
        "lr",
        "Learning rate",
        "",
        "The optimiser's step size.",
        key=f"{UPDATE}lr",
    ),
    Metric(
        "update_skipped",
        "Update skipped",
        "share",
        "Share of the step's updates that were skipped because the gradient's norm was "
        "not finite; with one update a step 0 or 1, and always 0 in a healthy run.",
    ),
    Metric(
        "update_skipped_total",
        "Updates skipped",
        "steps",
        "The same, summed since the start.",
        sums="update_skipped",
    ),
    Metric(
        "staleness_histogram",
        "Staleness, histogram",
        "tokens",
        "Response tokens of the step by staleness in versions; the last bin, 15, holds "
        "all beyond it too.",
    ),
    Metric(
        "seconds_rollout",
        "Rollout wait",
        "s",
        "Time of the step that the trainer waited for responses; near 0 when "
        "generation keeps up.",
        key="timeperf/rollout",
    ),
    Metric(
        "seconds_logprobs",
        "Log-probs",
        "s",
        "Time of the step for the proximal policy's log-probabilities; absent where "
        "the update's own forward pass gives them (actor.speed.reuse_proximal).",
        key="timeperf/recompute_logp",
    ),
    Metric(
        "seconds_reference",
        "Reference log-probs",
        "s",
        "Time of the step for the reference policy's log-probabilities; absent without "
        "one.",
        key="timeperf/ref_logp",
    ),
    Metric(
        "seconds_advantages",
        "Advantages",
        "s",
        "Time of the step to hand the batch to the trainer and compute advantages.",
        key="timeperf/compute_advantage",
    ),
    Metric(
        "seconds_update",
        "Update",
        "s",
        "Time of the step for the views, the losses and the optimiser.",
        key="timeperf/train_step",
    ),
    Metric(
        "seconds_weights",
        "Weights",
        "s",
        "Time of the step to hand new weights to generation.",
        key="timeperf/update_weights",
    ),
    *map(part_metric, _PARTS),
)
