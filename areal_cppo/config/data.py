"""The block `data` of the YAML: where problems come from and which are used."""

from __future__ import annotations

from dataclasses import dataclass, field

from areal_cppo.core.checks import Choice, Number, check_fields, refusal, setting
from areal_cppo.tasks.registry import TASK_NAMES

INSTRUCTION = (
    "Reason step by step between <think> and </think>. After that, write the final "
    "answer, and nothing else, in \\boxed{}."
)
# Rounding to whole patches at most doubles or halves a side. With a narrower range a
# resized picture may be out of it again, and the model's processor resize it anew.
RANGE = 4
SOURCES = (*TASK_NAMES, "geometry3k", "virl39k", "clevr_count_70k", "custom")
BAD_ROWS = ("skip", "refuse")


@dataclass
class ColumnsConfig:
    """Columns of a user's own data (`source: custom`)."""

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
    """What AReaL's `train_dataset` and `valid_dataset` leave open, for both."""

    source: str = setting("triangles", Choice(SOURCES), "schema of the data")
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    image_folder: str | None = field(
        default=None,
        metadata={"help": "where relative image paths begin; null: beside the file"},
    )
    min_pixels: int = setting(
        3136, Number(low=1, integer=True), "least area of an image, pixels"
    )
    max_pixels: int = setting(
        1003520, Number(low=1, integer=True), "largest area of an image, pixels"
    )
    instruction: str = field(
        default=INSTRUCTION,
        metadata={"help": "a line behind each question; empty: none"},
    )
    max_prompt_tokens: int = setting(
        2048,
        Number(low=1, integer=True),
        "longest prompt, image tokens included; longer ones are bad rows",
    )
    bad_rows: str = setting(
        "skip", Choice(BAD_ROWS), "skip: leave bad rows out; refuse: stop at the start"
    )
    pass_rate_column: str | None = field(
        default=None,
        metadata={
            "help": "column of a pass rate in [0, 1]; rows without one are left out; "
            "null: no filter"
        },
    )
    pass_rate_min: float = setting(0.0, Number(low=0, high=1), "least pass rate")
    pass_rate_max: float = setting(1.0, Number(low=0, high=1), "largest pass rate")
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
