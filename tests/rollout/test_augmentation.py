"""Responses sampled from changed images: which see them, and what is trained on."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from areal import workflow_context
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters
from areal.infra.workflow_context import WorkflowContext
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from areal_cppo.config.agreements import disagreements
from areal_cppo.config.augmentation import UNLIKE, AugmentationConfig
from areal_cppo.config.experiment import load_config
from areal_cppo.rollout.augmentation import Augmenter
from areal_cppo.rollout.workflow import CPPOWorkflow
from areal_cppo.step.batch import with_images
from areal_cppo.tasks.problems import TRIANGLES

NOISE = [{"name": "noise", "strength": 0.5}]
SIZE = 6


class Engine:
    """Answers every request alike, but those of `failing`."""

    def __init__(self, failing=()):
        self.requests, self.failing = [], failing

    def get_version(self):
        return 3

    async def agenerate(self, req):
        self.requests.append(req)
        if len(self.requests) - 1 in self.failing:
            raise RuntimeError("lost")
        await asyncio.sleep(0)
        return ModelResponse(
            input_tokens=list(req.input_ids),
            output_tokens=[9, 10, 1],
            output_logprobs=[-0.5] * 3,
            output_versions=[3] * 3,
        )


@pytest.fixture
def sampled(processor, problem):
    """A group under these settings: what the trainer has of it, and its requests."""

    def sampled(failing=(), **settings):
        workflow = CPPOWorkflow(
            reward_fn="tests.rollout.reward_cases.by_token",
            gconfig=GenerationHyperparameters(max_new_tokens=8, max_tokens=100),
            tokenizer=str(TRIANGLES.checkpoint),
            processor=processor,
            augmentation={"views": NOISE} | settings,
        )
        engine = Engine(failing)
        group = asyncio.run(workflow.arun_group(engine, problem, SIZE))
        return with_images(group), [each.image_data[0] for each in engine.requests]

    return sampled


def pixels(group):
    return [item["pixel_values"] for item in group["multi_modal_input"]]


def same(a, b):
    return torch.equal(a, b)


def test_whole_groups_see_a_changed_image_and_are_trained_on_it(sampled, processor):
    group, images = sampled(share=1.0)
    plain, plain_images = sampled(views=[])
    assert len({*images}) == 1 and images[0] != plain_images[0]
    assert UNLIKE not in group and UNLIKE not in plain
    assert not same(pixels(group)[0], pixels(plain)[0])
    assert all(same(each, pixels(group)[0]) for each in pixels(group))
    ids = group["input_ids"], plain["input_ids"]
    assert same(*ids)  # the size is the same, and so is the prompt


def test_a_part_of_each_group_sees_one_and_all_are_trained_on_the_original(sampled):
    group, images = sampled(of="responses", share=0.34, train_on="original")
    plain, plain_images = sampled(views=[])
    assert images[0] == images[1] and images[2:] == plain_images[2:]
    assert images[0] != images[2]
    assert all(same(each, pixels(plain)[0]) for each in pixels(group))
    assert group[UNLIKE].shape == group["versions"].shape
    assert group[UNLIKE].any(1).tolist() == [True] * 2 + [False] * 4


def test_each_response_has_the_image_that_it_saw_though_the_first_are_lost(sampled):
    group, _ = sampled(failing=(0, 3), of="responses", share=0.5)
    original = pixels(sampled(views=[])[0])[0]
    changed = [not same(each, original) for each in pixels(group)]
    assert changed == [True, True, False, False]
    assert same(pixels(group)[0], pixels(group)[1])


def test_an_evaluation_sees_originals(sampled):
    before = workflow_context.get()
    workflow_context.set(WorkflowContext(is_eval=True, task_id=0))
    try:
        _, images = sampled(share=1.0)
    finally:
        workflow_context.set(before)
    assert images == sampled(views=[])[1]


def picture(seed: int) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (28, 42, 3))
    return Image.fromarray(levels.astype(np.uint8))


def test_what_is_drawn_depends_on_image_seed_and_version_only():
    config = AugmentationConfig(views=NOISE, share=0.5)
    outcomes = {}
    for seed, version in ((1, 0), (1, 1), (2, 0)):
        augmenter = Augmenter(config, seed)
        drawn = [augmenter.changed([picture(i)], SIZE, version) for i in range(200)]
        again = Augmenter(config, seed).changed([picture(7)], SIZE, version)
        assert again[0][0].tobytes() == drawn[7][0][0].tobytes()
        seeing = [count for _, count in drawn]
        assert {*seeing} == {0, SIZE}
        assert 70 < sum(map(bool, seeing)) < 130
        outcomes[seed, version] = tuple(seeing)
    assert len({*outcomes.values()}) == 3


@given(size=st.integers(1, 32), share=st.floats(0.01, 1.0))
def test_a_part_of_a_group_is_the_nearest_number(size, share):
    config = AugmentationConfig(views=NOISE, of="responses", share=share)
    images, seeing = Augmenter(config, 1).changed([picture(1)], size, 0)
    assert abs(seeing - share * size) <= 0.5
    assert (images[0].tobytes() != picture(1).tobytes()) == bool(seeing)


def test_a_change_fades():
    """After Eq. 3 of arXiv 2504.13055, with a midpoint of 40 of 60 steps."""
    config = AugmentationConfig(
        views=NOISE, share=1.0, fades=True, fade_middle=40 / 60, fade_steepness=30
    )
    left = [config.left(step, 60) for step in range(61)]
    for step in (10, 40, 47):
        published = 1 - 1 / (1 + np.exp(-30 * (step - 40) / 60))
        assert left[step] == pytest.approx(published, abs=1e-12)
    assert left == sorted(left, reverse=True) and left[0] > 0.999 > 0.001 > left[60]
    assert config.left(50, None) == 1
    augmenter = Augmenter(config, seed=1, steps=60)
    original = np.asarray(picture(3)).astype(int)
    moved = [
        np.abs(np.asarray(augmenter.changed([picture(3)], 1, v)[0][0]) - original)
        for v in (0, 40, 60)
    ]
    first, half, last = (each.mean() for each in moved)
    assert half == pytest.approx(first / 2, rel=0.1) and last < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "augmentation.share: expected a number in (0, 1], found 0.0"),
        ({"of": "groups"}, "augmentation.of: expected one of problems, responses"),
        ({"views": [{"name": "nosie"}]}, "augmentation.views[0].name: expected one of"),
        (
            {"views": [{"name": "zoom_crop"}], "fades": True},
            "name: expected a perturbation that can fade (blank, diffusion_noise, ",
        ),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError) as caught:
        AugmentationConfig(**{"views": NOISE} | settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], None),
        (["actor.use_decoupled_loss=false"], "augmentation.train_on: expected"),
        (["augmentation.share=0.01"], "augmentation.share: expected a part of each"),
        (["actor.kl_ctl=0.1", "ref=${actor}"], "actor.kl_ctl: expected 0 with augmen"),
        (
            ["actor.kl_ctl=0.1", "ref=${actor}", "augmentation.train_on=seen"],
            None,
        ),
    ],
)
def test_what_else_has_to_agree(overrides, words):
    recipe = "qwen2_5_vl-3b_geometry3k_noisyrollout.yaml"
    config = load_config(recipe, overrides, begins=False)
    said = [line for line in disagreements(config) if "augmentation" in line]
    assert (not said) if words is None else any(words in line for line in said)
