"""Tokenizer, processor and dataset, as AReaL and SGLang use them (neither is run)."""

import base64
import io
import pickle
import random

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLProcessor

from areal_cppo.tasks import responses
from areal_cppo.tasks.pixels import image_grid, patch_pixels, stack_images
from areal_cppo.tasks.problems import TOLD, TRIANGLES, ReadingDataset
from areal_cppo.tasks.responses import reference_response
from areal_cppo.tasks.tokenizer import PROMPT_IDS, build_tokenizer, decode, encode


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(TRIANGLES.checkpoint)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TRIANGLES.checkpoint)


@pytest.fixture(scope="module")
def dataset(processor):
    return ReadingDataset(TRIANGLES, processor, size=8, seed=3, split="train")


def test_saved_tokenizer_is_the_built_one(tokenizer):
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(29)] == list(
        responses.VOCABULARY
    )
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")
    assert tokenizer.image_token == "<|image_pad|>"
    assert tokenizer.video_token == "<|video_pad|>"


def test_round_trip_of_responses_is_exact(tokenizer):
    for seed in range(20):
        rng = random.Random(seed)
        values = (rng.randint(1, 9), 2, 8)
        text, roles = reference_response(TRIANGLES.names, values, rng)
        ids = tokenizer(text).input_ids
        assert len(ids) == len(roles)
        assert ids == encode([text])[0].tolist()
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) + "<eos>" == text
        assert "".join(decode(torch.tensor([[*ids, 0, 0]]))[0]) == text


def test_round_trip_of_any_tokens_is_exact(tokenizer):
    rng = random.Random(0)
    for _ in range(100):
        ids = [rng.randrange(29) for _ in range(30)]
        text = "".join(responses.VOCABULARY[i] for i in ids)
        assert tokenizer.decode(ids) == text
        assert tokenizer(text).input_ids == ids


def test_characters_outside_the_vocabulary_are_an_error(tokenizer):
    with pytest.raises(Exception, match="UNK"):
        tokenizer("Z")


def test_processor_is_the_stock_one_with_our_settings(processor):
    assert type(processor) is Qwen2_5_VLProcessor
    images = processor.image_processor
    assert list(images.image_mean) == [0.925] * 3
    assert list(images.image_std) == [0.25] * 3
    assert (images.patch_size, images.merge_size) == (14, 2)


def test_item_is_what_the_vision_workflow_reads(dataset):
    item = dataset[2]
    assert set(item) == {"images", "messages", *TOLD}
    assert item["messages"] == "<|vision_start|><|image_pad|><|vision_end|>P?"
    assert item["answer"] == sum(item["values"])
    assert isinstance(item["images"][0], Image.Image)


@pytest.mark.parametrize("use_fast", [False, True])  # SGLang's here, and AReaL's
def test_item_through_the_processor(dataset, use_fast):
    processor = AutoProcessor.from_pretrained(TRIANGLES.checkpoint, use_fast=use_fast)
    item = dataset[0]
    done = processor(
        images=item["images"],
        text=item["messages"],
        padding=False,
        return_tensors="pt",
    )
    assert done["input_ids"].tolist() == [list(PROMPT_IDS)]
    assert done["mm_token_type_ids"].tolist() == [[0, *[1] * 9, 0, 0, 0]]
    assert done["pixel_values"].shape == (36, 1176)
    assert done["image_grid_thw"].tolist() == [[1, 6, 6]]
    ours = patch_pixels(stack_images(item["images"]))
    torch.testing.assert_close(done["pixel_values"], ours, rtol=0, atol=1e-6)


def test_many_pictures_at_once_are_the_processors(processor):
    images = [TRIANGLES.make_problem(0, i).image for i in range(5)]
    done = processor.image_processor(images, return_tensors="pt")
    ours = patch_pixels(stack_images(images))
    torch.testing.assert_close(done["pixel_values"], ours, rtol=0, atol=1e-6)
    assert torch.equal(done["image_grid_thw"], image_grid(5))


def test_png_on_the_way_to_the_server_loses_nothing(processor, dataset):
    """What AReaL's `image2base64` does: PNG, then base64."""
    image = dataset[1]["images"][0]
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    sent = base64.b64encode(buffer.getvalue()).decode()
    received = Image.open(io.BytesIO(base64.b64decode(sent)))
    direct, round_trip = (
        processor.image_processor([each], return_tensors="pt")["pixel_values"]
        for each in (image, received)
    )
    assert torch.equal(direct, round_trip)


def test_dataset_can_be_sent_to_another_process(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 1000
    assert len(copy) == len(dataset) == 8
    assert copy[5]["values"] == dataset[5]["values"]


def test_dataset_is_a_sequence(dataset):
    items = list(dataset)
    assert len({item["query_id"] for item in items}) == 8
    assert dataset[-1]["query_id"] == items[-1]["query_id"]
    with pytest.raises(IndexError):
        dataset[8]


def test_splits_differ(processor, dataset):
    other = ReadingDataset(TRIANGLES, processor, size=8, seed=3, split="held_out")
    assert [item["values"] for item in other] != [item["values"] for item in dataset]


@pytest.mark.parametrize(
    ("size", "split", "match"), [(0, "train", "at least 1"), (3, "valid", "a split")]
)
def test_dataset_refuses(processor, size, split, match):
    with pytest.raises(ValueError, match=match):
        ReadingDataset(TRIANGLES, processor, size=size, seed=0, split=split)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="84 x 84"):
        stack_images([Image.new("RGB", (84, 83))])
