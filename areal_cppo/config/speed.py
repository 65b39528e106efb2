"""What makes a train step cheap, each switchable: `actor.speed` in the YAML.

All of it is exact: the loss and its gradient are the same with any of them off
(tests/step/test_speed.py). They can be switched off to see what each buys, which is
what `areal-cppo bench train-step` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from areal_cppo.core.checks import Bool, check_fields, setting


@dataclass
class SpeedConfig:
    """Optimisations of the train step.

    Raises
    ------
    ValueError
        A value is not a boolean.
    """

    share_prompts: bool = setting(
        True,
        Bool(),
        "compute the prompt of a group, its images included, once per row of tokens, "
        "not once per response",
    )
    share_images: bool = setting(
        True,
        Bool(),
        "encode an image once per row of tokens, however many prompts hold it",
    )
    response_logits: bool = setting(
        True,
        Bool(),
        "logits of response tokens only, a few at a time; false: the prompts' too, all "
        "at once",
    )
    gate_first: bool = setting(
        True,
        Bool(),
        "only responses past the gate enter the view passes; false: all with an image",
    )
    reuse_proximal: bool = setting(
        True,
        Bool(),
        "with one mini-batch per update the proximal policy is the one being updated: "
        "its log-probs come from the update's own forward pass; false: from one before",
    )

    def __post_init__(self) -> None:
        check_fields(self, "actor.speed.")
