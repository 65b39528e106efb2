"""The tiny model for a user's own data: pictures, tokens, what it is taught."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.data.prompts import PromptBuilder, processed
from areal_cppo.rewards import final_answer, is_correct
from areal_cppo.rewards.format import has_format
from areal_cppo.tasks import text_lesson, warmup
from areal_cppo.tasks.model import embed_images, load_model
from areal_cppo.tasks.text import COLOURS, GRID, SHAPES, guess, make_problem
from areal_cppo.tasks.text_lesson import IDS, SPECIAL, TextLesson, build_tokenizer
from areal_cppo.tasks.tokenizer import PAD_ID, build_processor

TOKENIZER = build_tokenizer()
LESSON = TextLesson()


@pytest.fixture(scope="module")
def model():
    return LESSON.build(0)[0].eval()


@given(st.text())
def test_any_text_has_tokens_and_comes_back(text):
    ids = TOKENIZER(text)["input_ids"]
    if not any(token in text for token in (*SPECIAL, *text_lesson.TAGS)):
        assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("tag", text_lesson.TAGS)
def test_tags_are_one_token_that_is_kept(tag):
    ids = TOKENIZER(f"a{tag}b<eos>")["input_ids"]
    assert ids[1] == IDS[tag] and len(ids) == 4
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == f"a{tag}b"


def test_prompts_are_those_of_the_chat_template():
    """What the lesson teaches is what data get, in any words."""
    problem = make_problem(0, 0, "train")
    builder = PromptBuilder(build_processor(TOKENIZER), "")
    prompt = builder.text(problem.question, 1)
    inputs = processed(builder.processor, prompt, [problem.image])
    assert inputs["input_ids"][0].tolist() == LESSON.prompts([problem])[0]
    assert builder.unknown("Wie gro\u00df? \u4e2d \x01") == ""


@pytest.mark.parametrize("split", ["train", "held_out", "warm_up"])
@pytest.mark.parametrize("index", range(5))
def test_a_problem_shows_what_it_says(split, index):
    problem = make_problem(3, index, split)
    assert problem == make_problem(3, index, split)
    side = problem.image.width // GRID
    for place, colour in zip(problem.places, problem.colours, strict=True):
        x, y = ((i + 0.5) * side for i in (place % GRID, place // GRID))
        found = problem.image.getpixel((int(x), int(y)))
        near = min(COLOURS, key=lambda name: distance(COLOURS[name], found))
        assert near == colour
    assert sorted(filter(None, problem.labels)) == sorted(
        1 + shape * len(COLOURS) + list(COLOURS).index(colour)
        for shape, colour in enumerate(problem.colours)
    )
    assert problem.question.rstrip("?.").split().count(SHAPES[problem.asked]) == 1


def distance(one, two) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, two, strict=True))


def test_responses_earn_what_they_should():
    longest = 0
    for index in range(200):
        problem = make_problem(0, index, "warm_up")
        said = problem.response
        longest = max(longest, len(TOKENIZER(said + "<eos>")["input_ids"]))
        assert is_correct(final_answer(said), problem.answer) and has_format(said)
        guessed = guess(random.Random(index))
        assert final_answer(guessed) in COLOURS and not has_format(guessed)
    assert 50 < longest <= text_lesson.MAX_NEW_TOKENS


def test_first_letters_of_words_weigh_more():
    ids = TOKENIZER("<think>circle red</think>\\boxed{red}<eos>")["input_ids"]
    weights = text_lesson._weights(ids).tolist()
    heavy = [TOKENIZER.decode([i]) for i, w in zip(ids, weights) if w > 1]
    assert heavy == ["c", "r", "r"]


def test_logits_are_those_of_the_stock_model(model):
    """Prompts of several lengths, padded at their end, against one at a time."""
    problems = [make_problem(0, i, "train") for i in range(3)]
    rows = LESSON.prompts(problems)
    ids = torch.full((3, max(map(len, rows)) + 2), PAD_ID)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    builder = PromptBuilder(LESSON.processor(), "")
    with torch.no_grad():
        inputs = [
            processed(builder.processor, builder.text(p.question, 1), [p.image])
            for p in problems
        ]
        pixels = torch.cat([each["pixel_values"] for each in inputs])
        ours = text_lesson._logits(model, embed_images(model, pixels), ids)
        for row, each, prompt in zip(ours, inputs, rows, strict=True):
            stock = model(**each).logits[0]
            assert torch.allclose(row[: len(prompt)], stock, atol=1e-4)


def test_it_first_learns_to_look_and_then_to_guess(monkeypatch):
    seen = []
    monkeypatch.setattr(
        text_lesson, "_weights", lambda ids: seen.append(ids) or torch.ones(len(ids))
    )
    model, head = LESSON.build(0)
    shares = []
    for step in (1, text_lesson._LOOK_STEPS + 1):
        seen.clear()
        LESSON.loss(model, head, 0, step)
        shares.append(sum(IDS["<think>"] not in ids for ids in seen) / len(seen))
    assert shares[0] == 0 and 0.25 < shares[1] < 0.75


def test_it_learns_and_its_folder_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(warmup, "_QUICK_CHECK", 8)
    trained, (history,) = warmup.warm_up(LESSON, 0, max_steps=3)
    again, _ = warmup.warm_up(LESSON, 0, max_steps=3)
    for one, two in zip(trained.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert 0 < history.loss < 6  # log(267) is 5.6
    warmup.save_checkpoint(trained, LESSON, tmp_path)
    problems = [make_problem(0, i, "held_out") for i in range(2)]
    loaded = load_model(tmp_path)
    assert LESSON.responses(loaded, problems) == LESSON.responses(trained, problems)
    first = LESSON.responses(loaded, problems, look=True)
    assert not any(text.startswith("\\boxed{") for text in first)


def test_the_model_that_comes_with_the_package_sees():
    model = load_model(Path(text_lesson.__file__).parent / "text_checkpoint")
    assert LESSON.accuracy(model, 100) >= text_lesson.TARGET_ACCURACY - 0.1
