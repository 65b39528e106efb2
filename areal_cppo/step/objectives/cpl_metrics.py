"""What `metrics.jsonl` says of the Contrastive Perception Loss, name by name.

Gated tokens are those that the gate lets into CPL, of the responses that went through
the views (`cpl_view_sequences`); perception tokens are the selected ones among them.
What no step with CPL has recorded is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from areal_cppo.metrics import UPDATE, Metric


def _cpl(name: str, title: str, unit: str, words: str, **how) -> Metric:
    """By default what is recorded under `cpl/` of its name."""
    if not how:
        how = {"key": f"{UPDATE}cpl/{name}"}
    return Metric(f"cpl_{name}", title, unit, words, **how)


def _share(part: str, whole: str) -> Callable[[Mapping, Mapping], float | None]:
    """A metric divided by another; 0 where that is 0 in a step with CPL."""

    def derive(line: Mapping, stats: Mapping) -> float | None:
        if "cpl_gated_responses" not in line:
            return None
        count = line.get(whole, 0.0)
        return line.get(part, 0.0) / count if count else 0.0

    return derive


def _gated_share(line: Mapping, stats: Mapping) -> float | None:
    gated = line.get("cpl_gated_responses")
    return None if gated is None else gated / stats["cppo/responses"]


def _effective_share(line: Mapping, stats: Mapping) -> float | None:
    """(sum of w)^2 / sum of w^2 over N tokens is N mean(w)^2 / mean(w^2)."""
    square = line.get("cpl_importance_weight_squared")
    if square is None:
        return None
    # 0: every token was dropped.
    return line["cpl_importance_weight"] ** 2 / square if square else 0.0


def _effective_size(line: Mapping, stats: Mapping) -> float | None:
    share = _effective_share(line, stats)
    return None if share is None else share * line["cpl_perception_tokens"]


class MetricOf:
    """All of them, by what comes behind `cpl_`."""

    loss = _cpl(
        "loss",
        "CPL",
        "nats",
        "The Contrastive Perception Loss, mean over perception tokens; ln 2 = 0.693 "
        "when positive and negative view are equally far from the anchor, lower when "
        "the negative is further.",
    )
    positive_divergence = _cpl(
        "positive_divergence",
        "Positive divergence",
        "nats",
        "How far the prediction moves under the positive view, at perception tokens; "
        "lower is steadier.",
    )
    negative_divergence = _cpl(
        "negative_divergence",
        "Negative divergence",
        "nats",
        "How far the prediction moves under the negative view, at perception tokens; a "
        "rise is what CPL is for, unless cpl_unselected_divergence rises with it.",
    )
    margin = _cpl(
        "margin",
        "Margin",
        "nats",
        "Negative minus positive divergence, at perception tokens: what CPL pushes up; "
        "below 0 the positive view harms more than the negative.",
    )
    inverted_margin = _cpl(
        "inverted_margin",
        "Inverted margin",
        "nats",
        "By how much the positive view harms more than the negative where it does, "
        "mean over all perception tokens; should be small beside the margin. With a "
        "small cpl.tau these tokens have most of CPL's gradient, and it draws the "
        "policy to what such a positive view misreads.",
    )
    unselected_divergence = _cpl(
        "unselected_divergence",
        "Unselected divergence",
        "nats",
        "KL divergence of the negative view from the anchor at gated tokens that were "
        "not selected, such as template; it should stay small, and a steep rise "
        "together with cpl_selected_share is the sign of the shortcut.",
    )
    selected_share = _cpl(
        "selected_share",
        "Perception token share",
        "share",
        "Perception tokens as a share of gated tokens, at most cpl.top_fraction unless "
        "rounded up; a steady rise warns of the shortcut.",
        derive=_share("cpl_perception_tokens", "cpl_gated_tokens"),
    )
    selected_per_response = _cpl(
        "selected_per_response",
        "Perception tokens per response",
        "tokens",
        "Their mean number in a response that went through the views; 0 leaves CPL "
        "nothing to act on.",
        derive=_share("cpl_perception_tokens", "cpl_view_sequences"),
    )
    perception_tokens = _cpl(
        "perception_tokens",
        "Perception tokens",
        "tokens",
        "Tokens selected by entropy gain.",
    )
    gated_tokens = _cpl(
        "gated_tokens",
        "Gated tokens",
        "tokens",
        "Response tokens that the gate lets into CPL: the candidates for selection.",
    )
    unselected_tokens = _cpl(
        "unselected_tokens",
        "Unselected tokens",
        "tokens",
        "Gated tokens that were not selected.",
    )
    anchor_entropy = _cpl(
        "anchor_entropy",
        "Anchor entropy",
        "nats",
        "Predictive entropy given the original image, mean over all gated tokens.",
    )
    negative_entropy = _cpl(
        "negative_entropy",
        "Negative entropy",
        "nats",
        "The same given the negative view; not above the anchor's means that the view "
        "removes nothing that the policy uses.",
    )
    entropy_gain = _cpl(
        "entropy_gain",
        "Entropy gain",
        "share",
        "Rise of the entropy from anchor to negative view as a share of the latter, 0 "
        "where it does not rise, mean over all gated tokens.",
    )
    gain_p10 = _cpl(
        "gain_p10",
        "Entropy gain, 10 %",
        "share",
        "A tenth of the gated tokens gains less; near 0 in a healthy run.",
        key="cppo/gain_p10",
    )
    gain_p50 = _cpl(
        "gain_p50",
        "Entropy gain, median",
        "share",
        "Half of the gated tokens gains less; a rise means that entropy gains "
        "everywhere, not only where the image is read.",
        key="cppo/gain_p50",
    )
    gain_p90 = _cpl(
        "gain_p90",
        "Entropy gain, 90 %",
        "share",
        "A tenth of the gated tokens gains more; near 0 means that the negative view "
        "is too weak.",
        key="cppo/gain_p90",
    )
    selected_anchor_entropy = _cpl(
        "selected_anchor_entropy",
        "Anchor entropy, selected",
        "nats",
        "Predictive entropy given the original image, mean over perception tokens; a "
        "fall means a policy more certain of what it reads.",
    )
    selected_negative_entropy = _cpl(
        "selected_negative_entropy",
        "Negative entropy, selected",
        "nats",
        "The same given the negative view.",
    )
    selected_gain = _cpl(
        "selected_gain",
        "Entropy gain, selected",
        "share",
        "Mean entropy gain of perception tokens; close to cpl_entropy_gain means that "
        "selection hardly tells tokens apart.",
    )
    gated_share = _cpl(
        "gated_share",
        "Gated share",
        "share",
        "Share of the step's responses that enter CPL: past the gate, with an image "
        "and a negative view that differs from it.",
        derive=_gated_share,
    )
    gated_responses = _cpl(
        "gated_responses",
        "Gated responses",
        "responses",
        "The same as a number; 0 means that the step had no CPL.",
    )
    text_only_responses = _cpl(
        "text_only_responses",
        "Without an image",
        "responses",
        "Responses past the gate that have no image, and so no CPL.",
    )
    unchanged_responses = _cpl(
        "unchanged_responses",
        "Without a negative",
        "responses",
        "Responses past the gate left out because none of their negative views differs "
        "from its image; many mean too weak or too rare perturbations.",
    )
    positive_views = _cpl(
        "positive_views",
        "Positive views",
        "images",
        "Images that a positive view was drawn for.",
    )
    negative_views = _cpl(
        "negative_views",
        "Negative views",
        "images",
        "Images that a negative view was drawn for.",
    )
    positive_views_unchanged = _cpl(
        "positive_views_unchanged",
        "Positive views unchanged",
        "images",
        "Positive views that equal their image; harmless, but they teach nothing.",
    )
    negative_views_unchanged = _cpl(
        "negative_views_unchanged",
        "Negative views unchanged",
        "images",
        "Negative views that equal their image; should be few.",
    )
    view_sequences = _cpl(
        "view_sequences",
        "View sequences",
        "responses",
        "Gated responses that went through the views' forward passes: all, or at most "
        "cpl.responses a group.",
    )
    view_tokens = _cpl(
        "view_tokens",
        "View tokens",
        "tokens",
        "Tokens that the views' forward passes computed, prompts, fillers and padding "
        "included: what CPL costs.",
    )
    view_patches = _cpl(
        "view_patches",
        "View patches",
        "patches",
        "Image patches that the views' forward passes computed.",
    )
    importance_weight = _cpl(
        "importance_weight",
        "Staleness weight",
        "",
        "Mean weight of a perception token in CPL; 1 when every token is on-policy.",
        key=f"{UPDATE}cpl/staleness_weight",
    )
    importance_weight_squared = _cpl(
        "importance_weight_squared",
        "Staleness weight, squared",
        "",
        "Mean of its square; far above the square of the mean, few tokens weigh most.",
        key=f"{UPDATE}cpl/staleness_weight_squared",
    )
    effective_sample_size = _cpl(
        "effective_sample_size",
        "Effective sample",
        "tokens",
        "How many equally weighted perception tokens would say as much: the squared "
        "sum of the weights over the sum of their squares.",
        derive=_effective_size,
    )
    effective_sample_share = _cpl(
        "effective_sample_share",
        "Effective sample share",
        "share",
        "The same per perception token: 1 when all weigh alike, low when a few stale "
        "tokens have all the say.",
        derive=_effective_share,
    )
    stale_tokens = _cpl(
        "stale_tokens",
        "Tokens too stale",
        "tokens",
        "Perception tokens of weight 0, as they are staler than "
        "cpl.staleness.max_staleness.",
    )
    stale_dropped_share = _cpl(
        "stale_dropped_share",
        "Share too stale",
        "share",
        "The same as a share of perception tokens; a large one means that generation "
        "runs too far ahead.",
        derive=_share("cpl_stale_tokens", "cpl_perception_tokens"),
    )
    nonfinite_tokens = _cpl(
        "nonfinite_tokens",
        "Non-finite tokens",
        "tokens",
        "Gated tokens at which an entropy, divergence, loss or weight was not finite; "
        "always 0 in a healthy run.",
    )
    nonfinite_tokens_total = _cpl(
        "nonfinite_tokens_total",
        "Non-finite tokens so far",
        "tokens",
        "The same, summed since the start.",
        sums="cpl_nonfinite_tokens",
    )
    skipped_micro_batches = _cpl(
        "skipped_micro_batches",
        "CPL passes skipped",
        "passes",
        "Micro-batches that CPL was left out of, on all ranks alike, because something "
        "was not finite on one of them; the policy loss goes on without it.",
        key="cppo/skipped_micro_batches",
    )
    skipped_micro_batches_total = _cpl(
        "skipped_micro_batches_total",
        "CPL passes skipped so far",
        "passes",
        "The same, summed since the start.",
        sums="cpl_skipped_micro_batches",
    )
    skipped_responses = _cpl(
        "skipped_responses",
        "Responses skipped",
        "responses",
        "Responses in those micro-batches.",
    )
    skipped_responses_total = _cpl(
        "skipped_responses_total",
        "Responses skipped so far",
        "responses",
        "The same, summed since the start.",
        sums="cpl_skipped_responses",
    )


METRICS = tuple(value for value in vars(MetricOf).values() if isinstance(value, Metric))
