"""Sample responses: tokens coloured by entropy gain, beside the three images.

What the template `samples.html.j2` asks; it has the section's words and order.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from math import isfinite

from areal_cppo.report.page import TEMPLATES
from areal_cppo.report.samples import IMAGE_KINDS, SampleView, TokenView
from areal_cppo.report.step_samples import StepSamples

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

# What a token is asked of each image: (field's end, words with the unit after a comma).
_QUESTIONS = (
    ("probability", "Probability", ""),
    ("entropy", "Entropy", ", nats"),
    ("divergence", "KL from anchor", ", nats"),
)
_NOTHING = "\u2013"


def samples_html(
    samples: Sequence[SampleView],
    title: str = "Sample responses",
    large: bool = False,
) -> str:
    """The whole section; responses to the same image and prompt share a card.

    `large` gives the images the page's width.
    """
    return TEMPLATES.get_template("samples.html.j2").module.section(
        samples, title, large
    )


def step_samples_html(steps: Sequence[StepSamples], count: int) -> str:
    """The section of some steps' samples, of `count` that have any."""
    return TEMPLATES.get_template("samples.html.j2").module.steps(steps, count)


def cards(samples: Iterable[SampleView]) -> list[list[list[SampleView]]]:
    """A card for each question; within it, a part for each set of the same images."""
    questions = _grouped(samples, _question)
    return [
        _grouped(sorted(card, key=lambda sample: sample.policy != "before"), _images)
        for card in questions
    ]


def _grouped(
    samples: Iterable[SampleView], key: Callable[[SampleView], Hashable]
) -> list[list[SampleView]]:
    """Groups of the same key, in order of their first."""
    groups: dict[Hashable, list[SampleView]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return list(groups.values())


def _question(sample: SampleView) -> tuple:
    pixels = sample.anchor.tobytes() if sample.anchor else sample.title
    return sample.prompt, pixels


def _images(sample: SampleView) -> tuple:
    images = (getattr(sample, kind) for kind in IMAGE_KINDS)
    return tuple(image and image.tobytes() for image in images)


def token_text(value: str) -> str:
    """A token's text with its white space made visible, but for spaces beside words."""
    shown = value.replace("\n", "\u23ce").replace("\t", "\u21e5")
    if not shown.strip(" "):
        shown = shown.replace(" ", "\u2423")
    return shown or "\u2205"


def role_words(role: str) -> str:
    """A token's role, in words; empty where it has none."""
    meaning = ROLES.get(role)
    return f"{role}: {meaning}" if meaning else role


def found_words(tokens: Sequence[TokenView]) -> str:
    """How the selection compares with the truth, where the roles are known."""
    chosen = sum(token.selected for token in tokens)
    words = f"{chosen} of {len(tokens)} tokens are perception tokens"
    reads = [token for token in tokens if token.role == "R"]
    if not reads:
        return f"{words}."
    found = sum(token.selected for token in reads)
    return f"{words}; {found} of the {len(reads)} that read a digit are among them."


def token_name(token: TokenView) -> str:
    """A token's accessible name."""
    gain = f"entropy gain {token.gain:.2f}" if token.gated else "not gated"
    said = [f"{token_text(token.text)}, {gain}"]
    said += ["perception token"] if token.selected else []
    said += [role_words(token.role)] if token.role else []
    return ", ".join(said)


def questions(tokens: Sequence[TokenView]) -> list[tuple[str, str, str, list[str]]]:
    """Those that some token answers, each with the images of which one does."""
    asked = []
    for end, words, unit in _QUESTIONS:
        kinds = [
            kind
            for kind in IMAGE_KINDS
            if any(getattr(t, f"{kind}_{end}", None) is not None for t in tokens)
        ]
        if kinds:
            asked.append((end, words, unit, kinds))
    return asked


def token_value(token: TokenView, key: str) -> str:
    """One of a token's numbers."""
    value = getattr(token, key)
    return _NOTHING if value is None or not isfinite(value) else f"{value:.3f}"


TEMPLATES.globals |= {
    "IMAGES": IMAGES,
    "ROLES": ROLES,
    "SHORT": {kind: name.removesuffix(" view") for kind, (name, _) in IMAGES.items()},
    "cards": cards,
    "found_words": found_words,
    "questions": questions,
    "role_words": role_words,
    "token_name": token_name,
    "token_text": token_text,
    "token_value": token_value,
}
