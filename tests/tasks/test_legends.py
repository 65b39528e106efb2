"""Charts with a legend: words and numbers, pictures of several sizes, one model."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from areal_cppo.config.blocks import RewardConfig
from areal_cppo.studies.rollout import make_batch
from areal_cppo.studies.tokens import StudyViews, respond, token_logits
from areal_cppo.tasks import sampling
from areal_cppo.tasks.legend_charts import NAMED, SHADES, SIZES, draw_legend_chart
from areal_cppo.tasks.model import load_model, response_logits
from areal_cppo.tasks.pictures import Style
from areal_cppo.tasks.pixels import change_mildly
from areal_cppo.tasks.problems import LEGENDS, ReadingDataset
from areal_cppo.tasks.responses import (
    ASK_LARGEST,
    QUESTION,
    VOCABULARY,
    WITH_WORDS,
    WORDS,
    Score,
    reference_response,
    reward_fn,
    score_response,
    split_tokens,
    token_roles,
)
from areal_cppo.tasks.tokenizer import build_tokenizer, encode, prompt_ids

COLOURS, VALUES = ("blue", "green", "red"), (7, 4, 2)
READ = "<think>B=green 4 A=blue 7 C=red 2;"
SUM = READ + "4+7=11;11+2=13</think>\\boxed{13}"
LARGEST = READ + "4?7=7;7?2=7;7=blue</think>\\boxed{blue}"

any_values = st.tuples(*[st.integers(1, 9)] * 3)
any_colours = st.permutations(WORDS).map(lambda words: tuple(words[:3]))
any_question = st.sampled_from([QUESTION, ASK_LARGEST])


@pytest.fixture(scope="module")
def model():
    return load_model(LEGENDS.checkpoint)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(LEGENDS.checkpoint)


@pytest.fixture(scope="module")
def problems():
    """Of all sizes, and with both questions."""
    drawn = [LEGENDS.make_problem(0, i, "held_out") for i in range(12)]
    assert len({problem.image.size for problem in drawn}) == len(SIZES)
    assert len({problem.question for problem in drawn}) == 2
    return drawn


def roles(text):
    return "".join(token_roles(split_tokens(text)))


def test_new_tokens_stand_behind_the_old_ones():
    assert WITH_WORDS[:29] == VOCABULARY
    assert len(set(WITH_WORDS)) == len(WITH_WORDS) == 35
    assert set(SHADES) == set(WORDS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SUM + "<eos>", "TNTRTRTNTRTRTNTRTRTCTCTAATCCTCTAATTFFTT"),
        (LARGEST + "<eos>", "TNTRTRTNTRTRTNTRTRTCTCTATCTCTATCTATTFTT"),
        ("A=4 red 7", "NTRTTTR"),  # a digit after a name, a colour after nothing
        ("red=blue A=red4 A= 4", "TTTTNTRTTNTTT"),
        (";blue=red red", "TCTATC"),
        ("\\boxed{red red4}red", "TFTFFTC"),
    ],
)
def test_roles_worked_by_hand(text, expected):
    assert roles(text) == expected


@given(any_values, any_colours, any_question, st.integers(0, 99))
def test_a_reference_response_scores_in_full(values, colours, question, seed):
    asked = dict(colours=colours, question=question)
    text, made = reference_response(NAMED, values, random.Random(seed), **asked)
    assert token_roles(split_tokens(text)) == made
    assert made.count("R") == 6 and len(made) <= sampling.MAX_NEW_TOKENS
    if question == QUESTION or values.count(max(values)) == 1:
        score = score_response(text, NAMED, values, **asked)
        assert score == Score(True, True, 1.0, True)


@pytest.mark.parametrize(
    ("text", "question", "expected"),
    [
        (SUM, QUESTION, Score(True, True, 1.0, True)),
        (LARGEST, ASK_LARGEST, Score(True, True, 1.0, True)),
        (LARGEST, QUESTION, Score(False, True, 1.0, False)),
        (SUM, ASK_LARGEST, Score(False, True, 1.0, False)),
        # A colour misread that is not asked for; one that is; a value that changes all.
        (LARGEST.replace("red", "purple"), ASK_LARGEST, Score(True, True, 5 / 6, True)),
        (
            LARGEST.replace("blue", "purple"),
            ASK_LARGEST,
            Score(False, True, 5 / 6, True),
        ),
        (
            READ.replace("4", "9") + "</think>\\boxed{green}",
            ASK_LARGEST,
            Score(False, True, 5 / 6, True),
        ),
        # Two names mixed up: neither question tells.
        (
            "<think>B=blue 7 A=green 4 C=red 2;</think>\\boxed{blue}",
            ASK_LARGEST,
            Score(True, True, 2 / 6, True),
        ),
        # Two that are read as equally large: either follows from it.
        (
            READ.replace("4", "7") + "</think>\\boxed{green}",
            ASK_LARGEST,
            Score(False, True, 5 / 6, True),
        ),
        # Without colours nothing is read; a name twice is one reading.
        (
            "<think>A=7 B=4;</think>\\boxed{blue}",
            ASK_LARGEST,
            Score(True, True, 0.0, False),
        ),
        (
            "<think>A=blue 7 A=red 2;</think>\\boxed{13}",
            QUESTION,
            Score(1, 1, 2 / 6, 0),
        ),
        ("\\boxed{bluered}", ASK_LARGEST, Score(False, False, 0.0, False)),
    ],
)
def test_scores_worked_by_hand(text, question, expected):
    assert score_response(text, NAMED, VALUES, COLOURS, question) == expected


@pytest.mark.parametrize("answer", ["blue", "13", 13])
def test_reward_of_words_and_numbers(answer):
    for text, right in ((SUM, answer != "blue"), (LARGEST, answer == "blue")):
        parts = reward_fn(ASK_LARGEST, text, [], [], answer=answer)
        assert parts == {"answer": float(right), "format": 1.0}


def test_problems_have_one_largest_value():
    for index in range(40):
        problem = LEGENDS.make_problem(1, index)
        assert problem.values.count(max(problem.values)) == 1
        assert len(set(problem.colours)) == 3
        largest = problem.colours[np.argmax(problem.values)]
        asked = problem.question == ASK_LARGEST
        assert problem.answer == (largest if asked else sum(problem.values))


def test_bars_stand_for_their_values():
    """Their heights in pixels, by an independent look: columns of a colour's shade."""
    for seed in range(30):
        rng = random.Random(seed)
        values = tuple(rng.randint(1, 9) for _ in range(3))
        colours = tuple(rng.sample(WORDS, 3))
        image, places = draw_legend_chart(values, colours, rng, Style(noise=0))
        assert (image.width // 14, image.height // 14) in SIZES
        pixels = np.asarray(image).astype(int)
        for value, colour in zip(values, colours, strict=True):
            near = (abs(pixels - SHADES[colour]) <= 12).all(-1)
            tallest = max(len(run) for column in near.T for run in runs_of(column))
            if tallest > 9:  # or it is the swatch, of 9 rows
                assert 5.5 * value - 1 <= tallest <= 6.5 * value + 2
            else:
                assert value == 1
        # And they are where the picture says: the swatch left of a name's place, and
        # the bar below its end.
        for colour, (x, y), (left, top) in zip(colours, places[:3], places[3:]):
            for row, column in ((y, x - 5), (top + 2, left)):
                shown = pixels[round(row), round(column)]
                assert (abs(shown - SHADES[colour]) <= 12).all()


def runs_of(column):
    """Runs of True, as lists of places."""
    places = np.flatnonzero(column)
    return [
        r for r in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(r)
    ]


def test_the_tokenizer_knows_the_words(processor):
    tokenizer = processor.tokenizer
    assert tokenizer.get_vocab() == build_tokenizer(WITH_WORDS).get_vocab()
    for text in (SUM, LARGEST):
        ids = tokenizer(text + "<eos>").input_ids
        assert ids == encode([text + "<eos>"])[0].tolist()
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def stock(processor, items):
    """What the stock processor makes of an item alone."""
    return processor(
        images=[items["images"][0]], text=[items["messages"]], return_tensors="pt"
    )


def test_items_go_through_the_stock_processor(processor, problems):
    dataset = ReadingDataset(LEGENDS, processor, 12, 0, "held_out")
    pixels = []
    for item, problem in zip(dataset, problems, strict=True):
        made = stock(processor, item)
        assert made["input_ids"][0].tolist() == list(prompt_ids(problem.prompt))
        grid = [1, problem.prompt.rows, problem.prompt.columns]
        assert made["image_grid_thw"].tolist() == [grid]
        assert item["question"] == problem.question and item["answer"] == problem.answer
        pixels.append(made["pixel_values"])
    ours = sampling.problem_pixels(problems)
    torch.testing.assert_close(torch.cat(pixels), ours, rtol=0, atol=1e-6)


def test_mixed_sizes_give_what_the_stock_model_gives_of_each(
    model, processor, problems
):
    """Logits of given responses, and greedy responses, in the order of the problems."""
    prompts = [problem.prompt for problem in problems]
    pixels = sampling.problem_pixels(problems)
    greedy = sampling.sample(model, pixels, prompts=prompts, samples=2, temperature=0)
    assert torch.equal(greedy.ids[::2], greedy.ids[1::2])
    ids = greedy.ids[::2]
    with torch.no_grad():
        ours = response_logits(model, pixels, ids, prompts)
    dataset = ReadingDataset(LEGENDS, processor, 12, 0, "held_out")
    for i, item in enumerate(dataset):
        made = stock(processor, item)
        n = made["input_ids"].shape[1]
        length = int(greedy.lengths[2 * i])
        said = model.generate(**made, max_new_tokens=40, do_sample=False)[0, n:]
        assert said.tolist() == ids[i, :length].tolist()
        made["input_ids"] = torch.cat([made["input_ids"], ids[i : i + 1]], dim=1)
        kinds = made.pop("mm_token_type_ids")
        kinds = torch.nn.functional.pad(kinds, (0, ids.shape[1]))
        with torch.no_grad():
            logits = model(
                input_ids=made["input_ids"],
                pixel_values=made["pixel_values"],
                image_grid_thw=made["image_grid_thw"],
                mm_token_type_ids=kinds,
            ).logits[0, n - 1 : -1]
        torch.testing.assert_close(ours[i] / 15, logits / 15, rtol=0, atol=1e-5)


def test_draws_follow_their_generator(model, problems):
    prompts = [problem.prompt for problem in problems]
    pixels = sampling.problem_pixels(problems)

    def draw(seed):
        source = torch.Generator().manual_seed(seed)
        return sampling.sample(model, pixels, prompts=prompts, generator=source)

    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.logprobs, again.logprobs)
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


def test_a_study_batch_has_each_problem_s_own_prompt(model, problems):
    prompts = [problem.prompt for problem in problems]
    pixels = sampling.problem_pixels(problems)
    sampled = sampling.sample(model, pixels, prompts=prompts, samples=2)
    batch = make_batch(problems, pixels, sampled, 0, RewardConfig())
    assert len(batch.items) == len(problems)
    for i, (item, problem) in enumerate(zip(batch.items, problems, strict=True)):
        ids = prompt_ids(problem.prompt)
        assert item["input_ids"][0, : len(ids)].tolist() == list(ids)
        said = sampled.ids[2 * i, : sampled.lengths[2 * i]].tolist()
        assert item["input_ids"][0, len(ids) :].tolist()[: len(said)] == said
        for image in item["multi_modal_input"]:
            own = sampling.problem_pixels([problem])
            assert torch.equal(image["pixel_values"], own)
            assert int(image["image_grid_thw"].prod()) == len(own)


def test_what_studies_measure_is_of_each_problem_alone(model, problems):
    both = respond(model, problems, temperature=0.0, max_new_tokens=40)
    views = StudyViews(LEGENDS)
    blank = views.make(both.pixels, "negative", [{"name": "blank"}], both.prompts)
    logits = token_logits(model, both, blank)
    start = 0
    for i, problem in enumerate(problems):
        one = respond(model, [problem], temperature=0.0, max_new_tokens=40)
        assert one.tokens[0] == both.tokens[i]
        view = views.make(one.pixels, "negative", [{"name": "blank"}], one.prompts)
        own = token_logits(model, one, view)
        end = start + len(own)
        torch.testing.assert_close(logits[start:end] / 15, own / 15, rtol=0, atol=1e-5)
        start = end
    assert start == len(logits)
    some = both.first(5)
    assert torch.equal(some.pixels, sampling.problem_pixels(problems[:5]))


def test_mild_changes_leave_the_picture_readable():
    picture = np.array(LEGENDS.make_problem(0, 0).image)
    before = picture.copy()
    for seed in range(40):
        changed = change_mildly(picture, random.Random(seed))
        assert changed.shape == picture.shape and changed.dtype == np.uint8
        difference = abs(changed.astype(int) - picture).mean()
        assert 0 < difference < 45
        assert np.array_equal(changed, change_mildly(picture, random.Random(seed)))
    assert np.array_equal(picture, before)
