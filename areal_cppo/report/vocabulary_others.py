"""What `metrics.jsonl` says of the objectives that CPPO is compared with: PAPO, VPPO.

A run has those of its own objective only.
"""

Words = dict[str, tuple[str, str, str]]  # as `vocabulary.METRICS`


def _of_views(name: str, title: str) -> Words:
    """What both record of their responses and views; the titles begin with `title`."""
    return {
        f"{name}_responses": (
            f"{title}, responses",
            "responses",
            "Responses of the step that have an image and a negative view that differs "
            "from it.",
        ),
        f"{name}_text_only_responses": (
            f"{title}, without an image",
            "responses",
            "Responses without an image: trained on with the policy loss as it is.",
        ),
        f"{name}_unchanged_responses": (
            f"{title}, without a negative",
            "responses",
            "Responses none of whose negative views differs from its image: trained on "
            "with the policy loss as it is.",
        ),
        f"{name}_negative_views": (
            f"{title}, negative views",
            "images",
            "Images that a negative view was drawn for.",
        ),
        f"{name}_negative_views_unchanged": (
            f"{title}, negative views unchanged",
            "images",
            "Negative views that equal their image; should be few.",
        ),
        f"{name}_view_tokens": (
            f"{title}, view tokens",
            "tokens",
            "Tokens that the negative view's forward passes computed, prompts, fillers "
            "and padding included.",
        ),
        f"{name}_view_patches": (
            f"{title}, view patches",
            "patches",
            "Image patches that the negative view's forward passes computed.",
        ),
        f"{name}_tokens": (
            f"{title}, tokens",
            "tokens",
            "Response tokens of these responses.",
        ),
    }


PAPO_METRICS: Words = {
    "papo_loss": (
        "PAPO",
        "nats",
        "What PAPO adds to the policy loss, before the staleness weight, mean over "
        "tokens: -gamma times the divergence plus the entropies times their weights; "
        "it falls as the views move apart.",
    ),
    "papo_divergence": (
        "PAPO, divergence",
        "nats",
        "How far the prediction moves under the negative view, mean over tokens: what "
        "the Implicit Perception Loss pushes up. A sudden fall after a rise, together "
        "with the reward, is the collapse that the paper describes.",
    ),
    "papo_bounded_tokens": (
        "PAPO, bounded tokens",
        "tokens",
        "Tokens whose divergence reached papo.max_divergence and taught nothing more.",
    ),
    "papo_bounded_share": (
        "PAPO, bounded share",
        "share",
        "The same as a share of the tokens; a steady rise means that the views are "
        "driven apart for the sake of it.",
    ),
    "papo_anchor_entropy": (
        "PAPO, anchor entropy",
        "nats",
        "Predictive entropy given the original image, over the whole vocabulary, mean "
        "over tokens; a rise of both entropies is an early sign of collapse.",
    ),
    "papo_negative_entropy": (
        "PAPO, negative entropy",
        "nats",
        "The same given the negative view.",
    ),
    "papo_importance_weight": (
        "PAPO, staleness weight",
        "",
        "Mean weight of a token in PAPO's terms; 1 when every token is on-policy.",
    ),
    "papo_nonfinite_tokens": (
        "PAPO, non-finite tokens",
        "tokens",
        "Tokens at which PAPO's loss was not finite; always 0 in a healthy run.",
    ),
    "papo_skipped_responses": (
        "PAPO, responses skipped",
        "responses",
        "Responses in micro-batches that PAPO's terms were left out of, on all ranks "
        "alike, because of such a token; the policy loss goes on without them.",
    ),
    **_of_views("papo", "PAPO"),
}

VPPO_METRICS: Words = {
    "vppo_dependency": (
        "VPPO, dependency",
        "nats",
        "How far the prediction moves under the negative view, mean over tokens.",
    ),
    "vppo_kept_dependency": (
        "VPPO, dependency kept",
        "nats",
        "The same of the tokens that keep their policy gradient.",
    ),
    "vppo_filtered_dependency": (
        "VPPO, dependency filtered",
        "nats",
        "The same of the tokens that have none; close to the kept ones' means that "
        "filtering hardly tells tokens apart.",
    ),
    "vppo_kept_tokens": (
        "VPPO, tokens kept",
        "tokens",
        "Tokens that keep their policy gradient.",
    ),
    "vppo_kept_share": (
        "VPPO, share kept",
        "share",
        "The same as a share of the tokens: vppo.top_fraction, rounded up in each "
        "response.",
    ),
    "vppo_response_dependency_mean": (
        "VPPO, response dependency",
        "nats",
        "Mean dependency of a response's tokens, mean over responses.",
    ),
    "vppo_response_dependency_lowest": (
        "VPPO, lowest response dependency",
        "nats",
        "That of the step's least dependent response.",
    ),
    "vppo_response_dependency_highest": (
        "VPPO, highest response dependency",
        "nats",
        "That of its most dependent one; one far above all others leaves the rest "
        "near the lowest factor.",
    ),
    "vppo_factor_mean": (
        "VPPO, factor",
        "",
        "What a response's advantage is multiplied by, mean over responses; 1 with a "
        "dynamic vppo.beta_max.",
    ),
    "vppo_factor_lowest": (
        "VPPO, lowest factor",
        "",
        "That of the step's least dependent response: vppo.beta_min, or 1 if all "
        "depend alike.",
    ),
    "vppo_factor_highest": (
        "VPPO, highest factor",
        "",
        "That of its most dependent one.",
    ),
    "vppo_nonfinite_responses": (
        "VPPO, non-finite responses",
        "responses",
        "Responses with a dependency that was not finite: their advantage is left as "
        "it is; always 0 in a healthy run.",
    ),
    **_of_views("vppo", "VPPO"),
}
