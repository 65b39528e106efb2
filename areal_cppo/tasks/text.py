"""Questions in words about small pictures of coloured shapes, and answers in words.

What the tiny model for a user's own data learns before it sees any of that data
(`areal-cppo tiny-model --task text`): a picture of a circle, a square and a triangle, a
question about the colour of one, and a response that says what it sees, what is asked
for last, and then answers,

    What colour is the square?
    <think>circle red, triangle red, square blue</think>\\boxed{blue}

That is what it does in half of its responses. In the others it guesses, without a look
and without the format, `\\boxed{green}`: a habit that reinforcement learning breaks
within a few steps. Its tokens are bytes, so that it takes any text; what it understands
are the questions of `QUESTIONS`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from areal_cppo.tasks.pictures import (
    BACKGROUND,
    IMAGE_SIDE,
    INK,
    TRAINED,
    draw_colour,
    finish,
)
from areal_cppo.tasks.responses import BOXED, BOXED_END, THINK, THINK_END

COLOURS = {
    "red": (205, 40, 40),
    "orange": (235, 140, 30),
    "green": (40, 150, 60),
    "blue": (45, 70, 205),
    "black": (35, 35, 35),
}
SHAPES = ("circle", "square", "triangle")
QUESTIONS = (
    "What colour is the {}?",
    "Which colour does the {} have?",
    "Name the colour of the {}.",
)
GRID = 3  # cells a side, of one image token each
N_LABELS = 1 + len(SHAPES) * len(COLOURS)  # of what a cell shows; 0: nothing

_CELL = IMAGE_SIDE // GRID
_RADIUS = (6.0, 11.0)  # pixels
_SWAY = 3.0  # pixels from a cell's middle, each way
_OUTLINED = 0.3  # of the shapes
_TINT = 30  # levels by which a channel of a colour may differ, each way


@dataclass(frozen=True)
class TextProblem:
    """A picture and a question about one of `SHAPES`.

    `colours` are those of the shapes, `places` their cells, counted row by row.
    """

    image: Image.Image
    question: str
    asked: int
    colours: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def answer(self) -> str:
        """The colour that is asked for."""
        return self.colours[self.asked]

    @property
    def response(self) -> str:
        """A right response, without its `<eos>`."""
        order = sorted(range(len(SHAPES)), key=self.asked.__eq__)
        seen = ", ".join(f"{SHAPES[i]} {self.colours[i]}" for i in order)
        return f"{THINK}{seen}{THINK_END}{BOXED}{self.answer}{BOXED_END}"

    @property
    def labels(self) -> list[int]:
        """What each cell shows, from 0 to `N_LABELS` - 1."""
        labels = [0] * GRID**2
        for shape, (place, colour) in enumerate(zip(self.places, self.colours)):
            labels[place] = 1 + shape * len(COLOURS) + list(COLOURS).index(colour)
        return labels


def make_problem(seed: int, index: int, split: str) -> TextProblem:
    """Make a problem: the same one for the same arguments, on every machine."""
    rng = random.Random(f"areal_cppo.text/{split}/{seed}/{index}")
    asked = rng.randrange(len(SHAPES))
    question = rng.choice(QUESTIONS).format(SHAPES[asked])
    colours = tuple(rng.choices(list(COLOURS), k=len(SHAPES)))
    places = tuple(rng.sample(range(GRID**2), len(SHAPES)))
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), draw_colour(rng, BACKGROUND))
    for place, shape, colour in zip(places, SHAPES, colours, strict=True):
        _draw(ImageDraw.Draw(image), place, shape, colour, rng)
    image = finish(image, rng, TRAINED)
    return TextProblem(image, question, asked, colours, places)


def guess(rng: random.Random) -> str:
    """A response without a look, without its `<eos>`."""
    return f"{BOXED}{rng.choice(list(COLOURS))}{BOXED_END}"


def _draw(
    pen: ImageDraw.ImageDraw, place: int, shape: str, colour: str, rng: random.Random
) -> None:
    row, column = divmod(place, GRID)
    x, y = ((i + 0.5) * _CELL + rng.uniform(-_SWAY, _SWAY) for i in (column, row))
    size = rng.uniform(*_RADIUS)
    fill = tuple(level + rng.randint(-_TINT, _TINT) for level in COLOURS[colour])
    box = (x - size, y - size, x + size, y + size)
    outline = draw_colour(rng, INK) if rng.random() < _OUTLINED else None
    if shape == "circle":
        pen.ellipse(box, fill, outline)
    elif shape == "square":
        pen.rectangle(box, fill, outline)
    else:
        corners = [(x, box[1]), (box[2], box[3]), (box[0], box[3])]
        pen.polygon(corners, fill, outline)
