"""Generation in process: the batch's form, log-probabilities, exact staleness."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from areal_cppo.config.augmentation import UNLIKE, AugmentationConfig
from areal_cppo.config.blocks import RewardConfig
from areal_cppo.rollout.augmentation import Augmenter
from areal_cppo.rollout.requests import Prompt
from areal_cppo.rollout.trajectories import joined, response_trajectory
from areal_cppo.step.batch import with_images
from areal_cppo.studies.rollout import (
    Policies,
    Seen,
    generator,
    make_batch,
    sample_seen,
)
from areal_cppo.tasks import sampling
from areal_cppo.tasks.model import load_model, response_logits
from areal_cppo.tasks.pixels import image_grid
from areal_cppo.tasks.problems import reading_task
from areal_cppo.tasks.responses import EOS, IMAGE, VOCABULARY, split_tokens
from areal_cppo.tasks.tokenizer import PROMPT_IDS

EOS_ID, IMAGE_ID = VOCABULARY.index(EOS), VOCABULARY.index(IMAGE)


@pytest.fixture(scope="module")
def task():
    return reading_task("triangles")


@pytest.fixture(scope="module")
def policies(task):
    return Policies(task.checkpoint, bound=2)


@pytest.fixture(scope="module")
def problems(task):
    return [task.make_problem(1, i, "train") for i in range(3)]


def draw(model, problems, seed=1, samples=4, **settings):
    return sampling.sample(
        model,
        sampling.problem_pixels(problems),
        samples=samples,
        generator=generator(seed, 1),
        **settings,
    )


def test_kept_log_probabilities_are_the_model_s(policies, task, problems):
    sampled = draw(policies.model, problems, temperature=0.7)
    pixels = sampling.problem_pixels([p for p in problems for _ in range(4)])
    with torch.no_grad():
        logits = response_logits(policies.model, pixels, sampled.ids)
    expected = (logits / 0.7).log_softmax(-1)
    expected = expected.gather(-1, sampled.ids[..., None]).squeeze(-1)
    inside = torch.arange(sampled.ids.shape[1]) < sampled.lengths[:, None]
    torch.testing.assert_close(
        sampled.logprobs, expected.where(inside, torch.zeros(())), rtol=0, atol=2e-5
    )
    ends = sampled.ids[torch.arange(12), sampled.lengths - 1]
    cut_off = sampled.lengths == sampled.ids.shape[1]
    assert ((ends == EOS_ID) | cut_off).all()


def test_draws_depend_on_seed_and_step_alone(policies, task, problems):
    first, again = (draw(policies.model, problems) for _ in range(2))
    other = draw(policies.model, problems, seed=2)
    assert torch.equal(first.ids, again.ids)
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


def made(texts: list[str]) -> sampling.Sampled:
    """Responses of given texts; log-probabilities that tell token and row."""
    rows = [[VOCABULARY.index(token) for token in split_tokens(t)] for t in texts]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()) + 2, dtype=torch.long)
    logprobs = torch.zeros(ids.shape)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        logprobs[i, : len(row)] = -(i + 1) - torch.arange(len(row)) / 100
    return sampling.Sampled(ids, logprobs, lengths)


def right(problem) -> str:
    return f"<think>1;</think>\\boxed{{{problem.answer}}}{EOS}"


def test_groups_are_those_of_the_workflow(task, problems):
    """Against what `CPPOWorkflow` makes of the same responses."""
    wrong = f"<think>1+1</think>\\boxed{{0}}{EOS}"
    texts = [right(problems[0]), wrong, "1;1", right(problems[1])]
    sampled = made(texts)
    pixels = sampling.problem_pixels(problems[:2])
    reward = RewardConfig(answer_weight=0.8, format_weight=0.3)
    batch = make_batch(problems[:2], pixels, sampled, 5, reward)
    assert batch.refused == 0
    worth = [[1.1, 0.3], [0.0, 1.1]]
    prompt = list(PROMPT_IDS)
    for i, item in enumerate(batch.items):
        tensors = {
            "pixel_values": pixels[36 * i : 36 * (i + 1)],
            "image_grid_thw": image_grid(1),
        }
        kinds = [int(token == IMAGE_ID) for token in prompt]
        own = Prompt(prompt, kinds, "", [], tensors)
        rows = []
        for row, value in zip(range(2 * i, 2 * i + 2), worth[i], strict=True):
            n = int(sampled.lengths[row])
            response = SimpleNamespace(
                input_tokens=prompt,
                output_tokens=sampled.ids[row, :n].tolist(),
                output_logprobs=sampled.logprobs[row, :n].tolist(),
                output_versions=[5] * n,
                input_len=len(prompt),
                output_len=n,
            )
            rows.append((own, response_trajectory(own, response, value)))
        expected = with_images(joined(rows))
        assert item.keys() == expected.keys()
        inside = expected["attention_mask"]
        for key, value in expected.items():
            if key == "multi_modal_input":
                assert len(item[key]) == len(value)
                for mine, theirs in zip(item[key], value, strict=True):
                    assert mine.keys() == theirs.keys()
                    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
            elif value.shape == inside.shape:
                assert item[key].dtype == value.dtype, key
                assert torch.equal(item[key][inside], value[inside]), key
            else:
                torch.testing.assert_close(item[key], value)


def test_vision_tokens_are_refused_and_small_groups_dropped(task, problems):
    bad = f"1{IMAGE}1{EOS}"
    texts = [right(problems[0]), bad, "1;", bad, bad, "1;", "1;", "2;", "3;"]
    batch = make_batch(
        problems, sampling.problem_pixels(problems), made(texts), 0, RewardConfig()
    )
    assert [len(item["rewards"]) for item in batch.items] == [2, 3]
    assert batch.refused == 1 + 3  # one of the first group; the second, whole
    assert not any(
        (item["input_ids"][:, 13:] == IMAGE_ID).any() for item in batch.items
    )


class Actor:
    """As much of an actor as `Policies` asks for: weights and their version."""

    def __init__(self, task):
        self.model = load_model(task.checkpoint)
        self.version = 0

    def get_version(self):
        return self.version

    def update(self):
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.001 * (self.version + 1)
        self.version += 1


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_generation_is_exactly_so_many_versions_behind(task, bound):
    policies, actor = Policies(task.checkpoint, bound), Actor(task)
    policies.remember(actor)
    weights = {}
    for version in range(6):
        weights[version] = [p.detach().clone() for p in actor.model.parameters()]
        assert policies.behaviour(version) == max(0, version - bound)
        behind = weights[max(0, version - bound)]
        for mine, theirs in zip(policies.model.parameters(), behind, strict=True):
            assert torch.equal(mine, theirs)
        actor.update()
        policies.remember(actor)
    assert len(policies._weights) == bound + 1
    policies.use(6)
    now = actor.model.parameters()
    assert all(map(torch.equal, policies.model.parameters(), now))


@pytest.mark.parametrize(
    ("settings", "train_on"),
    [
        ({"of": "problems", "share": 0.5}, "seen"),
        ({"of": "responses", "share": 0.5}, "original"),
        ({"of": "responses", "share": 0.25}, "seen"),
    ],
)
def test_augmented_responses_are_sampled_from_what_was_seen(
    policies, task, settings, train_on
):
    """Their log-probs are the model's for the changed picture; what is trained on is
    as said."""
    problems = [task.make_problem(1, i, "train") for i in range(6)]
    views = [{"name": "noise", "strength": 0.3}]
    config = AugmentationConfig(views=views, train_on=train_on, **settings)
    seen = Seen.of(Augmenter(config, seed=1), problems, 4, version=0)
    assert {*seen.counts} == ({0, 4} if config.of == "problems" else {seen.counts[0]})
    pixels, model = sampling.problem_pixels(problems), policies.model
    ask = partial(sampling.sample, model, generator=generator(1, 1))
    sampled = sample_seen(ask, pixels, seen, 4)
    changed = torch.arange(4) < torch.tensor(seen.counts)[:, None]  # [problems, 4]

    original = pixels.unflatten(0, (6, 1, -1)).expand(-1, 4, -1, -1)
    other = seen.pixels.unflatten(0, (6, 1, -1)).expand(-1, 4, -1, -1)
    sources = torch.where(changed[..., None, None], other, original)
    with torch.no_grad():
        logits = response_logits(model, sources.flatten(0, 2), sampled.ids)
    expected = logits.log_softmax(-1).gather(-1, sampled.ids[..., None]).squeeze(-1)
    inside = torch.arange(sampled.ids.shape[1]) < sampled.lengths[:, None]
    torch.testing.assert_close(
        sampled.logprobs[inside], expected[inside], rtol=0, atol=2e-5
    )

    batch = make_batch(problems, pixels, sampled, 0, RewardConfig(), seen, train_on)
    assert batch.refused == 0
    for i, item in enumerate(batch.items):
        assert (UNLIKE in item) == (train_on == "original")
        if UNLIKE in item:
            assert item[UNLIKE].shape == item["versions"].shape
            assert item[UNLIKE].bool().all(1).tolist() == changed[i].tolist()
        trained = original[i] if train_on == "original" else sources[i]
        for row, images in enumerate(item["multi_modal_input"]):
            assert torch.equal(images["pixel_values"], trained[row])
