"""Problems as AReaL's stock vision workflow takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from areal_cppo.tasks.shifts import SHIFTS
from areal_cppo.tasks.task import SPLITS, ReadingTask
from areal_cppo.tasks.vocabulary import QUESTION

if TYPE_CHECKING:
    from transformers import ProcessorMixin


class ReadingDataset:
    """`size` problems of one stream, drawn when asked for (about 0.6 ms each).

    An item is a dict: `images` (list of one PIL picture), `messages` (the prompt's
    text, with one image placeholder that the processor will expand), `answer` (the
    sum), `query_id`, and `names` and `values` (lists of three).

    Parameters
    ----------
    task
        Whose problems.
    processor
        The model folder's; its chat template is used once, and it is not kept.
    size
        Number of problems.
    seed
        Of the stream.
    split
        One of `task.SPLITS`; no two share a problem, whatever their seeds.
    shift
        One of `shifts.SHIFTS`: how the pictures are drawn.

    Raises
    ------
    ValueError
        If `size` is less than 1, or there is no such split or shift.
    """

    def __init__(
        self,
        task: ReadingTask,
        processor: ProcessorMixin,
        size: int,
        seed: int,
        split: str = "train",
        shift: str = "none",
    ) -> None:
        if size < 1:
            raise ValueError(f"expected a dataset size of at least 1, got {size}")
        if split not in SPLITS:
            raise ValueError(f"expected a split out of {SPLITS}, got {split!r}")
        if shift not in SHIFTS:
            raise ValueError(f"expected a shift out of {SHIFTS}, got {shift!r}")
        self.task = task
        self.size = size
        self.seed = seed
        self.split = split
        self.shift = shift
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        self.prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.size <= index < self.size:
            raise IndexError(f"index {index} of a dataset of {self.size} problems")
        index %= self.size
        problem = self.task.make_problem(self.seed, index, self.split, self.shift)
        return {
            "images": [problem.image],
            "messages": self.prompt,
            "answer": problem.answer,
            "query_id": f"{self.split}-{self.seed}-{index}",
            "names": list(problem.names),
            "values": list(problem.values),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(self.size))
