"""Draws small pictures of coloured shapes, with a question about each:
train.jsonl, valid.jsonl and images/.

    python make_pictures.py -o DIR [--train 200] [--valid 60] [--seed 0]

A line: {"problem": ..., "answer": ..., "images": ["images/valid-0.png"]}
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 84  # pixels
COLOURS = {
    "red": "#d03030",
    "orange": "#f09020",
    "green": "#309040",
    "blue": "#3050d0",
    "black": "#202020",
}
SHAPES = ("circle", "square", "triangle")


def draw(colours, rng):
    """A picture of the three shapes in these colours, none over another."""
    picture = Image.new("RGB", (SIDE, SIDE), rng.choice(["white", "ivory", "#eef"]))
    pen, third = ImageDraw.Draw(picture), SIDE // 3
    for place, shape, colour in zip(rng.sample(range(9), 3), SHAPES, colours):
        size = rng.randint(13, 21)
        left = place % 3 * third + rng.randint(2, third - size - 2)
        top = place // 3 * third + rng.randint(2, third - size - 2)
        right, bottom = left + size, top + size
        style = {"fill": COLOURS[colour], "outline": "#404040"}
        if shape == "circle":
            pen.ellipse((left, top, right, bottom), **style)
        elif shape == "square":
            pen.rectangle((left, top, right, bottom), **style)
        else:
            corners = [((left + right) / 2, top), (right, bottom), (left, bottom)]
            pen.polygon(corners, **style)
    return picture


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--valid", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", args.train), ("valid", args.valid)):
        rng = random.Random(f"{split} {args.seed}")  # no picture is in both
        with (args.out / f"{split}.jsonl").open("w") as file:
            for i in range(count):
                colours = rng.choices(list(COLOURS), k=3)
                asked = rng.randrange(3)
                name = f"images/{split}-{i}.png"
                draw(colours, rng).save(args.out / name)
                row = {
                    "problem": f"What colour is the {SHAPES[asked]}?",
                    "answer": colours[asked],
                    "images": [name],
                }
                file.write(json.dumps(row) + "\n")
    print(f"{args.out}: {args.train} problems to train on, {args.valid} to validate on")


if __name__ == "__main__":
    main()
