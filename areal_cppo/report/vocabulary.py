"""The words of the report: objectives, token roles, metrics. One vocabulary."""

OBJECTIVES = {
    "cppo": "CPPO: GRPO with the Contrastive Perception Loss",
    "grpo": "GRPO, without the Contrastive Perception Loss",
    "cpl": "The Contrastive Perception Loss alone, without a policy loss",
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

# Metric -> (title, unit, sentence). The order is that of the report's table.
METRICS = {
    "reward": (
        "Reward",
        "",
        "Mean reward of the step's responses: 0.9 for a correct answer, 0.1 for the "
        "format.",
    ),
    "accuracy": (
        "Training accuracy",
        "share",
        "Share of the step's sampled responses with a correct answer.",
    ),
    "heldout_accuracy": (
        "Held-out accuracy",
        "share",
        "Share of held-out images answered correctly by greedy decoding.",
    ),
    "format": (
        "Format",
        "share",
        "Share of responses that think first and then box one answer.",
    ),
    "response_tokens": ("Response length", "tokens", "Mean length of a response."),
    "samples": ("Responses", "", "Responses trained on since the start."),
    "tokens_per_second": (
        "Generation rate",
        "tokens/s",
        "Response tokens generated per second of the step's wall time.",
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
    "grad_norm": (
        "Gradient norm",
        "",
        "Length of the whole gradient before clipping.",
    ),
    "lr": ("Learning rate", "", "The optimiser's step size."),
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
    "cpl_loss": (
        "CPL",
        "nats",
        "The Contrastive Perception Loss; ln 2 = 0.693 when positive and negative "
        "view are equally far from the anchor, lower when the negative is further.",
    ),
    "cpl_positive_divergence": (
        "Positive divergence",
        "nats",
        "How far the prediction moves under the positive view, at perception tokens; "
        "lower is steadier.",
    ),
    "cpl_negative_divergence": (
        "Negative divergence",
        "nats",
        "How far the prediction moves under the negative view, at perception tokens.",
    ),
    "cpl_margin": (
        "Margin",
        "nats",
        "Negative divergence minus positive divergence: what CPL pushes up.",
    ),
    "cpl_selected_per_response": (
        "Perception tokens",
        "per response",
        "Response tokens selected by entropy gain, per gated response; a steady rise "
        "warns of a shortcut.",
    ),
    "cpl_selected_share": (
        "Perception token share",
        "share",
        "The same as a share of the response tokens.",
    ),
    "cpl_gated_share": (
        "Gated share",
        "share",
        "Share of responses that the gate (advantage > 0) lets into CPL.",
    ),
    "cpl_view_sequences": (
        "View sequences",
        "responses",
        "Responses of the step that went through a view's forward pass.",
    ),
    "cpl_anchor_entropy": (
        "Anchor entropy",
        "nats",
        "Predictive entropy of perception tokens given the original image.",
    ),
    "cpl_negative_entropy": (
        "Negative entropy",
        "nats",
        "The same given the negative view.",
    ),
    "cpl_importance_weight": (
        "Staleness weight",
        "",
        "Mean weight of a perception token in CPL; 1 when every token is on-policy.",
    ),
    "seconds_rollout": (
        "Rollout wait",
        "s",
        "Time of the step that the trainer waited for responses.",
    ),
    "seconds_logprobs": (
        "Log-probs",
        "s",
        "Time of the step for the proximal policy's log-probabilities.",
    ),
    "seconds_update": (
        "Update",
        "s",
        "Time of the step for the views, the losses and the optimiser.",
    ),
    "seconds_weights": (
        "Weights",
        "s",
        "Time of the step to hand new weights to generation.",
    ),
    "version": ("Policy version", "", "Updates that generation has received."),
    "seconds": ("Time", "s", "Wall time since training began."),
}
