"""Blocks of the YAML that are this package's alone, a dataclass each.

A field is declared with its default, its bounds and its help, and checked when it is
set: a wrong value is a `ValueError` of one line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from areal_cppo.checks import (
    COUNT,
    FRACTION,
    POSITIVE,
    Bool,
    Choice,
    Number,
    check_fields,
    refusal,
    setting,
)
from areal_cppo.config import SHIFTS, SOURCES

INSTRUCTION = (
    "Reason step by step between <think> and </think>. After that, write the final "
    "answer, and nothing else, in \\boxed{}."
)
WEIGHT = Number(low=0, high=1000)
SECONDS = Number(low=0, high=1e8, low_open=True)  # 3 years; a lock waits no 300
# Rounding to whole patches at most doubles or halves a side. With a narrower range a
# resized picture may be out of it again, and the model's processor resize it anew.
RANGE = 4
# Of samples: what a response takes along among its images; how many of its pictures
# are kept, and their longest side in pixels.
SAMPLE = "sample"
SAMPLE_PICTURES = 4
SAMPLE_SIDE = 512
# Among a response's images: the parts of its reward, by name.
REWARD_PARTS = "reward_parts"
# Among a response's images, in their place: which response of its group, counted from
# 0, has the same ones and carries them. They cross to the trainer once.
SAME_AS = "same_as"


@dataclass
class ColumnsConfig:
    """`data.columns`: those of a user's own data (`source: custom`)."""

    question: str = field(default="problem", metadata={"help": "the question's text"})
    answer: str = field(default="answer", metadata={"help": "the true answer"})
    images: str = field(
        default="images",
        metadata={"help": "an image or a list of them: files' bytes or paths"},
    )
    id: str | None = field(
        default=None, metadata={"help": "a name of the row; null: its number"}
    )


@dataclass
class DataConfig:
    """`data`: where problems come from and which are used.

    What AReaL's `train_dataset` and `valid_dataset` leave open, for both.
    """

    source: str = setting("triangles", Choice(SOURCES), "schema of the data")
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    image_folder: str | None = field(
        default=None,
        metadata={"help": "where relative image paths begin; null: beside the file"},
    )
    min_pixels: int = setting(3136, COUNT, "least area of an image, pixels")
    max_pixels: int = setting(1003520, COUNT, "largest area of an image, pixels")
    instruction: str = field(
        default=INSTRUCTION,
        metadata={"help": "a line behind each question; empty: none"},
    )
    max_prompt_tokens: int = setting(
        2048, COUNT, "longest prompt, image tokens included; longer ones are bad rows"
    )
    bad_rows: str = setting(
        "skip",
        Choice(("skip", "refuse")),
        "skip: leave bad rows out; refuse: stop at the start",
    )
    pass_rate_column: str | None = field(
        default=None,
        metadata={
            "help": "column of a pass rate in [0, 1]; rows without one are left out; "
            "null: no filter"
        },
    )
    pass_rate_min: float = setting(0.0, FRACTION, "least pass rate")
    pass_rate_max: float = setting(1.0, FRACTION, "largest pass rate")
    limit: int | None = setting(
        None,
        Number(low=1, integer=True, optional=True),
        "problems used of each dataset, drawn by the seed; null: all",
    )

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        if self.max_pixels < RANGE * self.min_pixels:
            raise refusal(
                "data.max_pixels",
                f"at least {RANGE} times data.min_pixels ({self.min_pixels})",
                self.max_pixels,
                "images must fit in between once their sides are whole patches",
            )
        if self.pass_rate_max < self.pass_rate_min:
            raise refusal(
                "data.pass_rate_max",
                f"at least data.pass_rate_min ({self.pass_rate_min:g})",
                self.pass_rate_max,
                "no row has such a pass rate",
            )
        filtered = self.pass_rate_min > 0 or self.pass_rate_max < 1
        if filtered and self.pass_rate_column is None:
            raise refusal(
                "data.pass_rate_column",
                "a column beside data.pass_rate_min and data.pass_rate_max",
                None,
                "name it, for ViRL39K PassRate_32BTrained",
            )


@dataclass
class RewardConfig:
    """`reward`: what judges a response, weights of its parts, and the time it may take.

    The published recipe: 0.9 for the answer, 0.1 for the format.
    """

    function: str = field(
        default="",
        metadata={
            "help": "a function of your own, module:name or FILE.py:name; empty: the "
            "task's"
        },
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "of the parts that your function returns by name; one without a "
            "weight is recorded and not paid for"
        },
    )
    sees: list[str] = field(
        default_factory=lambda: ["answer"],
        metadata={
            "help": "what your function is told of a problem: answer, question, "
            "query_id, or columns of your data; each a keyword"
        },
    )
    answer_weight: float = setting(0.9, WEIGHT, "reward of a correct answer")
    format_weight: float = setting(0.1, WEIGHT, "reward of a kept format")
    timeout_seconds: float = setting(
        10.0, SECONDS, "time to check one answer, after which the response is refused"
    )
    processes: int = setting(
        4,
        Number(low=1, high=1000, integer=True),
        "most processes that check answers, for each rollout worker",
    )

    def __post_init__(self) -> None:
        check_fields(self, "reward.")
        place, _, name = self.function.rpartition(":")
        if self.function and not (place and name.isidentifier()):
            raise refusal(
                "reward.function",
                "module:name or FILE.py:name",
                self.function,
                "name a function of a module, or of a file, as rewards.py:reward",
            )
        if place.endswith(".py"):  # workers may have another working folder
            self.function = f"{Path(place).expanduser().absolute()}:{name}"
        self._check_sees()
        for part, weight in self.weights.items():
            if not Number().accepts(weight):
                raise refusal(
                    f"reward.weights.{part}", "a number", weight, "correct it"
                )
        self._check_unused()

    def _check_sees(self) -> None:
        reserved = {"prompt", "completions", "prompt_ids", "completion_ids"}
        reserved |= {"images", "messages"}
        for place, name in enumerate(self.sees):
            if name in reserved or name in self.sees[:place]:
                raise refusal(
                    "reward.sees",
                    f"names, each once, none of {', '.join(sorted(reserved))}",
                    name,
                    "prompt, response and their ids are told anyway, images never; "
                    "rename a column of that name",
                )

    def _check_unused(self) -> None:
        """Refuse settings of the other kind of function, which would do nothing."""
        own = {"weights": {}, "sees": ["answer"]}
        ours = {"answer_weight": 0.9, "format_weight": 0.1}
        beside = "beside" if self.function else "without"
        mend = "set reward.weights" if self.function else "name your function, or leave"
        mend += "" if self.function else " it out"
        for name, default in (ours if self.function else own).items():
            if getattr(self, name) != default:
                raise refusal(
                    f"reward.{name}",
                    f"{default!r} {beside} reward.function",
                    getattr(self, name),
                    mend,
                )

    @property
    def part_weights(self) -> dict[str, float]:
        """By the parts that the reward function returns."""
        own = {"answer": self.answer_weight, "format": self.format_weight}
        return dict(self.weights) if self.function else own


@dataclass
class GroupsConfig:
    """`groups`: what becomes of the responses to a problem."""

    on_failed_response: str = setting(
        "keep",
        Choice(("keep", "drop")),
        "What becomes of a group that lost a response. keep: train on the rest; drop: "
        "on none of it; counted either way.",
    )
    all_equal: str = setting(
        "keep",
        Choice(("keep", "drop")),
        "What becomes of a group whose responses all have the same reward. keep: it is "
        "part of the batch and teaches nothing; drop: it is counted, and another takes "
        "its place (dynamic sampling, arXiv 2503.14476).",
    )
    attempts: int = setting(
        3,
        COUNT,
        "Times that a problem is handed out before it is given up, if its group is "
        "dropped or fails.",
    )

    def __post_init__(self) -> None:
        check_fields(self, "groups.")


@dataclass
class HeldoutConfig:
    """`heldout`: evaluation on held-out problems, in the controller's process."""

    size: int = setting(
        0,
        Number(low=0, high=1_000_000, integer=True),
        "Number of problems; 0 turns it off.",
    )
    every: int = setting(
        0,
        Number(low=0, integer=True),
        "Steps between evaluations; 0: before and after only.",
    )
    shift: str = setting(
        "none", Choice(SHIFTS), "how the pictures of a synthetic task differ"
    )

    def __post_init__(self) -> None:
        check_fields(self, "heldout.")


@dataclass
class ValidationConfig:
    """`validation`: accuracy on `valid_dataset`, asked of the run's own servers."""

    every: int = setting(
        20,
        Number(low=0, integer=True),
        "steps between validations; there is one before the first and after the last "
        "step, too. 0: none",
    )
    problems: int = setting(100, COUNT, "the first so many of valid_dataset")
    k: int = setting(
        0,
        Number(low=0, integer=True),
        "responses per problem besides the greedy one, for average-at-k",
    )
    keep_best: bool = setting(True, Bool(), "keep the checkpoint of the best one")

    def __post_init__(self) -> None:
        check_fields(self, "validation.")


@dataclass
class SamplesConfig:
    """`samples`: responses that are kept to be read, with their pictures."""

    every: int = setting(
        1,
        Number(low=0, integer=True),
        "steps between those with samples, beside the last; 0: none",
    )
    responses: int = setting(
        4, COUNT, "responses of such a step that are kept, beside refused ones"
    )
    megabytes: float = setting(
        64.0, POSITIVE, "at most, in the run's folder; the oldest go first"
    )

    def __post_init__(self) -> None:
        check_fields(self, "samples.")


def has_samples(step: int, every: int, last: int) -> bool:
    """Whether a step, from 1, is one of those: the first is, and the run's last."""
    return bool(every) and ((step - 1) % every == 0 or step == last)
