"""The words of the report: objectives, token roles, metrics. One vocabulary.

    python -m areal_cppo.report.vocabulary

prints the table of metrics in Markdown, as `docs/algorithm.md` has it.
"""

from areal_cppo.report.vocabulary_cpl import CPL_METRICS
from areal_cppo.report.vocabulary_others import PAPO_METRICS, VPPO_METRICS

OBJECTIVES = {
    "cppo": "CPPO: GRPO with the Contrastive Perception Loss",
    "grpo": "GRPO, without the Contrastive Perception Loss",
    "cpl": "The Contrastive Perception Loss alone, without a policy loss",
    "papo": "PAPO: GRPO with the Implicit Perception Loss",
    "vppo": "VPPO: GRPO on the tokens that depend on the image",
}

# The roles of a response's tokens in the triangle task, where all are known.
ROLES = {
    "R": "reads a digit off the image: the true perception tokens",
    "N": "names a side",
    "C": "copies a digit it has read",
    "A": "arithmetic",
    "F": "the final answer",
    "T": "template",
}

IMAGES = {
    "anchor": ("Anchor", "the original image"),
    "positive": ("Positive view", "keeps the information"),
    "negative": ("Negative view", "removes information"),
}

# Metric -> (title, unit, sentences): every name that metrics.jsonl can hold, what it
# is, and what a good or bad sign looks like. The order is that of the report's table.
METRICS = {
    "step": ("Step", "", "Training step, from 1."),
    "version": (
        "Policy version",
        "",
        "The policy's version when the step began: updates made before it.",
    ),
    "time": ("Clock", "s", "Unix time at the end of the step."),
    "seconds": ("Time", "s", "Wall time since training began."),
    "step_seconds": ("Step time", "s", "Wall time of this step alone."),
    "samples": ("Responses", "", "Responses trained on since the start."),
    "refused": (
        "Refused responses",
        "responses",
        "Responses unfit to train on since the start, by reason; a rise that does not "
        "level off means that data or model is at fault.",
    ),
    "requests_resent": (
        "Requests sent again",
        "",
        "Requests of this step that a generation server failed to answer and that were "
        "sent to another.",
    ),
    "problems_given_up": (
        "Problems given up",
        "",
        "Problems whose group failed groups.attempts times, since the start: they are "
        "not trained on in that epoch.",
    ),
    "warnings": (
        "Warnings",
        "",
        "What the run's watch has seen at this step, in words; absent where it has "
        "seen nothing.",
    ),
    "stats": (
        "AReaL's statistics",
        "",
        "All that AReaL itself recorded of the step, under AReaL's own names.",
    ),
    "reward": (
        "Reward",
        "",
        "Mean reward of the step's responses; in the triangle task 0.9 for a correct "
        "answer and 0.1 for the format.",
    ),
    "accuracy": (
        "Training accuracy",
        "share",
        "Share of the step's sampled responses with a correct answer.",
    ),
    "response_tokens": (
        "Response length",
        "tokens",
        "Mean length of a response; a steep rise or fall often comes before a collapse "
        "of the reward.",
    ),
    "tokens_per_second": (
        "Generation rate",
        "tokens/s",
        "Response tokens trained on per second of the step's wall time.",
    ),
    "response_tokens_histogram": (
        "Response length, histogram",
        "responses",
        "Responses of the step by length: a bin is a sixteenth of actor.max_new_tokens "
        "and named by its middle, in tokens; the last one holds all beyond it too.",
    ),
    "samples_per_second": (
        "Effective samples",
        "responses/s",
        "Responses trained on per second of the step's wall time; those thrown away "
        "don't count.",
    ),
    "trainer_idle_share": (
        "Trainer idle",
        "share",
        "Share of the step's wall time in which the trainer waited for responses; near "
        "0 when generation keeps up, large when it is the bottleneck.",
    ),
    "interrupted_responses": (
        "Interrupted responses",
        "responses",
        "Responses of the step with tokens of more than one policy version: a weight "
        "update interrupted them, and they went on.",
    ),
    "policy_loss": (
        "Policy loss",
        "",
        "The clipped, decoupled GRPO loss; its level says little, its stability much.",
    ),
    "policy_entropy": (
        "Policy entropy",
        "nats",
        "Mean entropy of the policy's token distribution; a fall to 0 means it no "
        "longer explores.",
    ),
    "importance_weight": (
        "Importance weight",
        "",
        "Mean probability ratio of the current to the proximal policy; it stays near 1 "
        "while updates are small.",
    ),
    "behaviour_importance_weight": (
        "Behaviour weight",
        "",
        "Mean probability ratio of the proximal to the behaviour policy; far from 1 "
        "means too stale data, or that generation and training disagree.",
    ),
    "clip_ratio": (
        "Clipped tokens",
        "share",
        "Share of response tokens whose policy loss was clipped; a large share means "
        "that updates are too large.",
    ),
    "grad_norm": (
        "Gradient norm",
        "",
        "Length of the whole gradient before clipping; sudden jumps are a bad sign.",
    ),
    "lr": ("Learning rate", "", "The optimiser's step size."),
    "update_skipped": (
        "Update skipped",
        "share",
        "Share of the step's updates that were skipped because the gradient's norm was "
        "not finite; with one update a step 0 or 1, and always 0 in a healthy run.",
    ),
    "update_skipped_total": (
        "Updates skipped",
        "steps",
        "The same, summed since the start.",
    ),
    "staleness_mean": (
        "Staleness, mean",
        "versions",
        "How many policy versions ago the trained-on tokens were sampled, on average.",
    ),
    "staleness_max": (
        "Staleness, largest",
        "versions",
        "The same for the stalest token of the step.",
    ),
    "staleness_histogram": (
        "Staleness, histogram",
        "tokens",
        "Response tokens of the step by staleness in versions; the last bin, 15, holds "
        "all beyond it too.",
    ),
    **CPL_METRICS,
    **PAPO_METRICS,
    **VPPO_METRICS,
    "seconds_rollout": (
        "Rollout wait",
        "s",
        "Time of the step that the trainer waited for responses; near 0 when "
        "generation keeps up.",
    ),
    "seconds_logprobs": (
        "Log-probs",
        "s",
        "Time of the step for the proximal policy's log-probabilities; absent where "
        "the update's own forward pass gives them (actor.speed.reuse_proximal).",
    ),
    "seconds_reference": (
        "Reference log-probs",
        "s",
        "Time of the step for the reference policy's log-probabilities; absent without "
        "one.",
    ),
    "seconds_advantages": (
        "Advantages",
        "s",
        "Time of the step to hand the batch to the trainer and compute advantages.",
    ),
    "seconds_update": (
        "Update",
        "s",
        "Time of the step for the views, the losses and the optimiser.",
    ),
    "seconds_perturb": (
        "Drawing views",
        "s",
        "Part of the update: perturbing the images, mean of the ranks.",
    ),
    "seconds_negative_view": (
        "Negative view",
        "s",
        "Part of the update: the negative view's forward passes, mean of the ranks. On "
        "a GPU the time to hand them over, not to compute them.",
    ),
    "seconds_positive_view": (
        "Positive view",
        "s",
        "The same of the positive view.",
    ),
    "seconds_weights": (
        "Weights",
        "s",
        "Time of the step to hand new weights to generation.",
    ),
}


def metrics_table() -> str:
    """`METRICS` as a Markdown table of name, unit and meaning."""
    rows = [
        f"| `{name}` | {unit or '-'} | {words} |"
        for name, (_, unit, words) in METRICS.items()
    ]
    return "\n".join(["| metric | unit | meaning |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(metrics_table())
