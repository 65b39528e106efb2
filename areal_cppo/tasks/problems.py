"""Tasks whose pictures show three named values; their problems are drawn as needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from areal_cppo.config import SHIFTS
from areal_cppo.errors import UserError
from areal_cppo.tasks import responses
from areal_cppo.tasks.drawings import BARS, SIDES, draw_chart, draw_triangle
from areal_cppo.tasks.legend_charts import NAMED, SHADES, draw_legend_chart
from areal_cppo.tasks.pictures import PATCH, Style, draw_style
from areal_cppo.tasks.prompts import TaskPrompt
from areal_cppo.tasks.responses import (
    ASK_LARGEST,
    QUESTION,
    VOCABULARY,
    WITH_WORDS,
    Colours,
    Names,
    Score,
    Values,
)

if TYPE_CHECKING:
    from transformers import ProcessorMixin

SPLITS = ("train", "held_out", "warm_up")  # streams that share no problem
TOLD = ("answer", "question", "query_id", "names", "values")  # to a reward, if asked
LARGEST = 9  # of the values; the smallest is 1


@dataclass(frozen=True)
class DrawnProblem:
    """One picture, what it shows, and what is asked: `values[i]` is that of `names[i]`.

    A response may read them in any order, and where `colours` is given these, too.
    `places`: where in the picture colours and then values are read, in pixels, where
    a warm-up needs it.
    """

    names: Names
    values: Values
    image: Image.Image
    colours: Colours | None = None
    question: str = QUESTION
    places: tuple[tuple[float, float], ...] = ()

    @property
    def answer(self) -> int | str:
        """The sum of the values, or the colour of the largest."""
        return responses.right_answers(self.values, self.colours or (), self.question)[
            0
        ]

    @property
    def prompt(self) -> TaskPrompt:
        """What a model is given."""
        width, height = self.image.size
        return TaskPrompt(self.question, height // PATCH, width // PATCH)

    def score(self, text: str) -> Score:
        """What a response is worth, decoded, with or without its `<eos>`."""
        return responses.score_response(
            text, self.names, self.values, self.colours, self.question
        )

    def reference_response(self, rng: random.Random) -> tuple[str, list[str]]:
        """A right response, read in a random order, and the roles of its tokens."""
        return responses.reference_response(
            self.names, self.values, rng, self.colours, self.question
        )


Make = Callable[[Values, random.Random, Style], DrawnProblem]


@dataclass(frozen=True)
class ReadingTask:
    """Where problems of one kind come from.

    Attributes
    ----------
    name
        In configurations and commands, and of the streams of problems.
    names
        Of the three values.
    make
        Draws the values, in the order of their names, with what is random from a
        `random.Random`.
    checkpoint
        Folder of the model that comes with the package (`warmup.make_model`).
    prior
        Share of the split `warm_up` whose three values are all equal: a prior that a
        model can answer from without looking, and that other splits don't bear out.
    vocabulary
        Of its model.
    one_largest
        Whether one value is larger than the others, always.
    mild
        Share of the pictures that a warm-up shows mildly changed
        (`pixels.change_mildly`), so that a model reads training's positive views.
    """

    name: str
    names: Names
    make: Make
    checkpoint: Path
    prior: float = 0.0
    vocabulary: tuple[str, ...] = VOCABULARY
    one_largest: bool = False
    mild: float = 0.0

    @property
    def coloured(self) -> bool:
        """Whether colours are read, too."""
        return self.vocabulary is WITH_WORDS

    def make_problem(
        self, seed: int, index: int, split: str = "train", shift: str = "none"
    ) -> DrawnProblem:
        """Make a problem: the same one for the same arguments, on every machine.

        Parameters
        ----------
        seed, index
            Which stream, and which problem of it.
        split
            One of `SPLITS`: whatever the seed, no two splits share a stream.
        shift
            One of `areal_cppo.config.SHIFTS`: how the picture is drawn; its answer and
            layout are those of the unshifted problem.

        Raises
        ------
        ValueError
            If there is no such split or shift.
        """
        if split not in SPLITS:
            raise ValueError(f"expected a split out of {SPLITS}, got {split!r}")
        stream = f"areal_cppo.{self.name}/{split}/{seed}/{index}"
        style = draw_style(shift, random.Random(f"{stream}/{shift}"))
        rng = random.Random(stream)
        values = self._draw_values(rng)
        if (
            split == "warm_up"
            and random.Random(f"{stream}/prior").random() < self.prior
        ):
            values = (values[0],) * 3
        return self.make(values, rng, style)

    def _draw_values(self, rng: random.Random) -> Values:
        while True:
            values = (*(rng.randint(1, LARGEST) for _ in range(3)),)
            if not self.one_largest or values.count(max(values)) == 1:
                return values


def _triangle(values: Values, rng: random.Random, style: Style) -> DrawnProblem:
    return DrawnProblem(SIDES, values, draw_triangle(values, rng, style))


def _chart(values: Values, rng: random.Random, style: Style) -> DrawnProblem:
    return DrawnProblem(BARS, values, draw_chart(values, rng, style))


def _legend(values: Values, rng: random.Random, style: Style) -> DrawnProblem:
    question = rng.choice((QUESTION, ASK_LARGEST))
    colours = (*rng.sample(list(SHADES), 3),)
    image, places = draw_legend_chart(values, colours, rng, style)
    return DrawnProblem(NAMED, values, image, colours, question, places)


_FOLDER = Path(__file__).parent
TRIANGLES = ReadingTask(
    "triangles", SIDES, _triangle, _FOLDER / "triangles" / "checkpoint"
)
CHARTS = ReadingTask("charts", BARS, _chart, _FOLDER / "charts" / "checkpoint")
# The same pictures, for a model that has learnt that most triangles are equilateral.
PRIOR = ReadingTask(
    "prior", SIDES, _triangle, _FOLDER / "triangles" / "prior_checkpoint", prior=0.7
)
LEGENDS = ReadingTask(
    "legends",
    NAMED,
    _legend,
    _FOLDER / "legends" / "checkpoint",
    vocabulary=WITH_WORDS,
    one_largest=True,
    mild=0.3,
)
_TASKS = {task.name: task for task in (TRIANGLES, CHARTS, PRIOR, LEGENDS)}


def reading_task(name: str) -> ReadingTask:
    """The task of a name, one of `areal_cppo.config.TASK_NAMES`.

    Raises
    ------
    UserError
        There is none of that name.
    """
    if name not in _TASKS:
        raise UserError(
            f"task: expected one of {', '.join(_TASKS)}, found {name!r}; correct it"
        )
    return _TASKS[name]


class ReadingDataset:
    """Problems of one stream as AReaL's stock vision workflow takes them.

    They are drawn when asked for (about 0.6 ms each).

    An item is a dict: `images` (list of one PIL picture), `messages` (the prompt's
    text, with one image placeholder that the processor will expand), and of `TOLD`
    `question`, `answer` (the sum), `query_id`, `names` and `values` (lists of three).

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
        One of `SPLITS`; no two share a problem, whatever their seeds.
    shift
        One of `areal_cppo.config.SHIFTS`: how the pictures are drawn.

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
        around = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )
        self.around = tuple(around.split(QUESTION))  # a question

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.size <= index < self.size:
            raise IndexError(f"index {index} of a dataset of {self.size} problems")
        index %= self.size
        problem = self.task.make_problem(self.seed, index, self.split, self.shift)
        return {
            "images": [problem.image],
            "messages": problem.prompt.question.join(self.around),
            "question": problem.prompt.question,
            "answer": problem.answer,
            "query_id": f"{self.split}-{self.seed}-{index}",
            "names": list(problem.names),
            "values": list(problem.values),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(self.size))
