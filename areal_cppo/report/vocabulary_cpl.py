"""What `metrics.jsonl` says of the Contrastive Perception Loss, name by name.

Gated tokens are those of `cpl_gated_responses` that the gate lets into CPL;
perception tokens are the selected ones among them.
"""

# Metric -> (title, unit, sentences), as in `vocabulary.METRICS`.
CPL_METRICS = {
    "cpl_loss": (
        "CPL",
        "nats",
        "The Contrastive Perception Loss, mean over perception tokens; ln 2 = 0.693 "
        "when positive and negative view are equally far from the anchor, lower when "
        "the negative is further.",
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
        "How far the prediction moves under the negative view, at perception tokens; a "
        "rise is what CPL is for, unless cpl_unselected_divergence rises with it.",
    ),
    "cpl_margin": (
        "Margin",
        "nats",
        "Negative minus positive divergence, at perception tokens: what CPL pushes up; "
        "below 0 the positive view harms more than the negative.",
    ),
    "cpl_inverted_margin": (
        "Inverted margin",
        "nats",
        "By how much the positive view harms more than the negative where it does, "
        "mean over all perception tokens; should be small beside the margin. With a "
        "small cpl.tau these tokens have most of CPL's gradient, and it draws the "
        "policy to what such a positive view misreads.",
    ),
    "cpl_unselected_divergence": (
        "Unselected divergence",
        "nats",
        "KL divergence of the negative view from the anchor at gated tokens that were "
        "not selected, such as template; it should stay small, and a steep rise "
        "together with cpl_selected_share is the sign of the shortcut.",
    ),
    "cpl_selected_share": (
        "Perception token share",
        "share",
        "Perception tokens as a share of gated tokens, at most cpl.top_fraction unless "
        "rounded up; a steady rise warns of the shortcut.",
    ),
    "cpl_selected_per_response": (
        "Perception tokens per response",
        "tokens",
        "Their mean number in a gated response; 0 leaves CPL nothing to act on.",
    ),
    "cpl_perception_tokens": (
        "Perception tokens",
        "tokens",
        "Tokens selected by entropy gain.",
    ),
    "cpl_gated_tokens": (
        "Gated tokens",
        "tokens",
        "Response tokens that the gate lets into CPL: the candidates for selection.",
    ),
    "cpl_unselected_tokens": (
        "Unselected tokens",
        "tokens",
        "Gated tokens that were not selected.",
    ),
    "cpl_anchor_entropy": (
        "Anchor entropy",
        "nats",
        "Predictive entropy given the original image, mean over all gated tokens.",
    ),
    "cpl_negative_entropy": (
        "Negative entropy",
        "nats",
        "The same given the negative view; not above the anchor's means that the view "
        "removes nothing that the policy uses.",
    ),
    "cpl_entropy_gain": (
        "Entropy gain",
        "share",
        "Rise of the entropy from anchor to negative view as a share of the latter, 0 "
        "where it does not rise, mean over all gated tokens.",
    ),
    "cpl_gain_p10": (
        "Entropy gain, 10 %",
        "share",
        "A tenth of the gated tokens gains less; near 0 in a healthy run.",
    ),
    "cpl_gain_p50": (
        "Entropy gain, median",
        "share",
        "Half of the gated tokens gains less; a rise means that entropy gains "
        "everywhere, not only where the image is read.",
    ),
    "cpl_gain_p90": (
        "Entropy gain, 90 %",
        "share",
        "A tenth of the gated tokens gains more; near 0 means that the negative view "
        "is too weak.",
    ),
    "cpl_selected_anchor_entropy": (
        "Anchor entropy, selected",
        "nats",
        "Predictive entropy given the original image, mean over perception tokens; a "
        "fall means a policy more certain of what it reads.",
    ),
    "cpl_selected_negative_entropy": (
        "Negative entropy, selected",
        "nats",
        "The same given the negative view.",
    ),
    "cpl_selected_gain": (
        "Entropy gain, selected",
        "share",
        "Mean entropy gain of perception tokens; close to cpl_entropy_gain means that "
        "selection hardly tells tokens apart.",
    ),
    "cpl_gated_share": (
        "Gated share",
        "share",
        "Share of the step's responses that enter CPL: past the gate, with an image "
        "and a negative view that differs from it.",
    ),
    "cpl_gated_responses": (
        "Gated responses",
        "responses",
        "The same as a number; 0 means that the step had no CPL.",
    ),
    "cpl_text_only_responses": (
        "Without an image",
        "responses",
        "Responses past the gate that have no image, and so no CPL.",
    ),
    "cpl_unchanged_responses": (
        "Without a negative",
        "responses",
        "Responses past the gate left out because none of their negative views differs "
        "from its image; many mean too weak or too rare perturbations.",
    ),
    "cpl_positive_views": (
        "Positive views",
        "images",
        "Images that a positive view was drawn for.",
    ),
    "cpl_negative_views": (
        "Negative views",
        "images",
        "Images that a negative view was drawn for.",
    ),
    "cpl_positive_views_unchanged": (
        "Positive views unchanged",
        "images",
        "Positive views that equal their image; harmless, but they teach nothing.",
    ),
    "cpl_negative_views_unchanged": (
        "Negative views unchanged",
        "images",
        "Negative views that equal their image; should be few.",
    ),
    "cpl_view_sequences": (
        "View sequences",
        "responses",
        "Responses of the step that went through the views' forward passes.",
    ),
    "cpl_view_tokens": (
        "View tokens",
        "tokens",
        "Tokens that the views' forward passes computed, prompts, fillers and padding "
        "included: what CPL costs.",
    ),
    "cpl_view_patches": (
        "View patches",
        "patches",
        "Image patches that the views' forward passes computed.",
    ),
    "cpl_importance_weight": (
        "Staleness weight",
        "",
        "Mean weight of a perception token in CPL; 1 when every token is on-policy.",
    ),
    "cpl_importance_weight_squared": (
        "Staleness weight, squared",
        "",
        "Mean of its square; far above the square of the mean, few tokens weigh most.",
    ),
    "cpl_effective_sample_size": (
        "Effective sample",
        "tokens",
        "How many equally weighted perception tokens would say as much: the squared "
        "sum of the weights over the sum of their squares.",
    ),
    "cpl_effective_sample_share": (
        "Effective sample share",
        "share",
        "The same per perception token: 1 when all weigh alike, low when a few stale "
        "tokens have all the say.",
    ),
    "cpl_stale_tokens": (
        "Tokens too stale",
        "tokens",
        "Perception tokens of weight 0, as they are staler than "
        "cpl.staleness.max_staleness.",
    ),
    "cpl_stale_dropped_share": (
        "Share too stale",
        "share",
        "The same as a share of perception tokens; a large one means that generation "
        "runs too far ahead.",
    ),
    "cpl_nonfinite_tokens": (
        "Non-finite tokens",
        "tokens",
        "Gated tokens at which an entropy, divergence, loss or weight was not finite; "
        "always 0 in a healthy run.",
    ),
    "cpl_nonfinite_tokens_total": (
        "Non-finite tokens so far",
        "tokens",
        "The same, summed since the start.",
    ),
    "cpl_skipped_micro_batches": (
        "CPL passes skipped",
        "passes",
        "Micro-batches that CPL was left out of, on all ranks alike, because something "
        "was not finite on one of them; the policy loss goes on without it.",
    ),
    "cpl_skipped_micro_batches_total": (
        "CPL passes skipped so far",
        "passes",
        "The same, summed since the start.",
    ),
    "cpl_skipped_responses": (
        "Responses skipped",
        "responses",
        "Responses in those micro-batches.",
    ),
    "cpl_skipped_responses_total": (
        "Responses skipped so far",
        "responses",
        "The same, summed since the start.",
    ),
}
