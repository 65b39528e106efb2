"""Models through transformers: the tiny one against its own sampler, each family.

Not covered: real weights; a GPU.
"""

import json

import pytest
import torch

from areal_cppo.data.prompts import PromptBuilder
from areal_cppo.errors import RunError, UserError
from areal_cppo.inspection.judging import Asking, inspect_response
from areal_cppo.inspection.model import VisionModel
from areal_cppo.inspection.settings import Settings
from areal_cppo.inspection.views import Views
from areal_cppo.tasks import sampling
from areal_cppo.tasks.model import load_model, response_logits
from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.tokenizer import decode
from tests.inspection.drawn import picture
from tests.step import families


@pytest.fixture(scope="module")
def tiny() -> VisionModel:
    return VisionModel(TRIANGLES.checkpoint)


@pytest.fixture(scope="module")
def problem():
    return TRIANGLES.make_problem(0, 0, "held_out")


def ask(model: VisionModel, *images, text: str = "P?"):
    return model.ask(PromptBuilder(model.processor, "").text(text, len(images)), images)


def test_greedy_response_is_that_of_the_tasks_own_sampler(tiny, problem):
    ids = tiny.generate(ask(tiny, problem.image), limit=40, temperature=0, seed=1)
    model = load_model(TRIANGLES.checkpoint)
    pixels = sampling.problem_pixels([problem])
    own = sampling.sample(model, pixels, temperature=0).ids
    assert ids.tolist() == own[0].tolist()
    assert "".join(tiny.pieces(ids)) == "".join(decode(own)[0])


def test_logits_are_those_of_the_tasks_own_pass_under_each_image(tiny, problem):
    question = ask(tiny, problem.image)
    ids = tiny.read("<think>BC=7 AB=7 CA=1;7+7=14;14+1=15</think>\\boxed{15}")
    views = Views.draw(
        *(question.pixel_values, question.grid, tiny.input.layout),
        *(Settings().cpl.views, 1),
    )
    model = load_model(TRIANGLES.checkpoint)
    for pixels in views.pixels.values():
        own = response_logits(model, pixels, ids[None])[0]
        assert torch.allclose(tiny.logits(question, ids, pixels), own, atol=1e-4)


def test_sampled_response_follows_the_seed(tiny, problem):
    question = ask(tiny, problem.image)
    before = torch.random.get_rng_state()
    drawn = [
        tiny.generate(question, limit=40, temperature=2.0, seed=seed).tolist()
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_given_response_ends(tiny):
    assert tiny.pieces(tiny.read("15")) == ["1", "5", "<eos>"]
    assert tiny.pieces(tiny.read("15<eos>")) == ["1", "5", "<eos>"]


@pytest.mark.parametrize(
    ("response", "words"),
    [("perimeter", "--response: expected text"), ("1<|image_pad|>", "an image token")],
)
def test_given_response_that_cannot_be(tiny, response, words):
    with pytest.raises(UserError, match=words):
        tiny.read(response)


def test_prompt_that_the_tokenizer_lacks(tiny, problem):
    with pytest.raises(UserError, match="--prompt: expected text that the model"):
        ask(tiny, problem.image, text="perimeter?")


def test_settings_of_a_checkpoint_do_not_change_the_policy(tmp_path, tiny, problem):
    """A repetition penalty in generation_config.json would."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in TRIANGLES.checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    suggested = json.loads((folder / "generation_config.json").read_text())
    suggested |= {"repetition_penalty": 5.0, "do_sample": True, "top_k": 1}
    (folder / "generation_config.json").write_text(json.dumps(suggested))
    ids = [
        model.generate(ask(model, problem.image), limit=40, temperature=0, seed=1)
        for model in (tiny, VisionModel(folder))
    ]
    assert ids[0].tolist() == ids[1].tolist()


def test_inspected_response_of_the_tiny_model(tiny, problem):
    sample = inspect_response(
        *(tiny, ask(tiny, problem.image), Asking(limit=5), Settings()),
        title="x",
        prompt="P?",
        grade=lambda text: (0.25, False),
        roles=lambda pieces: ["N"] * len(pieces),
    )
    assert len(sample.tokens) == 5 and {token.role for token in sample.tokens} == {"N"}
    assert sample.notes == ("Cut off after 5 tokens (--max-new-tokens).",)
    assert (sample.reward, sample.correct, sample.policy) == (0.25, False, None)
    assert sample.anchor.tobytes() == problem.image.tobytes()
    assert sample.negative.tobytes() != problem.image.tobytes()
    assert sample.perturbations["negative"] in ("noise_patches", "zoom_crop")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_with_two_images(tmp_path, name):
    """Of different sizes; logits agree with those of generating, step by step."""
    model = VisionModel(families.make_folder(name, tmp_path / name))
    question = ask(
        model, picture((70, 60)), picture((130, 100)), text="<image>A<image>?"
    )
    asking = Asking(response="<think>AB=1</think>\\boxed{7}")
    sample = inspect_response(
        *(model, question, asking, Settings()), title="x", prompt="?"
    )
    assert [token.text for token in sample.tokens][-3:] == ["7", "}", "<eos>"]
    assert sample.answer == "7"
    ids = model.generate(question, limit=6, temperature=0, seed=1)
    logits = model.logits(question, ids, question.pixel_values)
    assert logits.argmax(dim=-1).tolist() == ids.tolist()


def test_pieces_of_characters_that_several_tokens_spell(tiny):
    class Bytes:
        """A tokenizer whose tokens are bytes."""

        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    whole = "a\u00e4\u6f22\U0001f600b"
    model = VisionModel.__new__(VisionModel)
    model.processor = type("Processor", (), {"tokenizer": Bytes()})()
    pieces = model.pieces(torch.tensor(list(whole.encode())))
    assert pieces == [
        "a",
        *("\u00e4", "\u2026"),
        *("\u6f22", "\u2026", "\u2026"),
        *("\U0001f600", "\u2026", "\u2026", "\u2026"),
        "b",
    ]
    cut = model.pieces(torch.tensor(list("\u6f22".encode())[:2]))
    assert cut == ["\ufffd", "\ufffd"]


def test_response_with_an_image_token_is_told(tiny, problem, monkeypatch):
    question = ask(tiny, problem.image)
    image = torch.full((1, 1), tiny.model.config.image_token_id)
    monkeypatch.setattr(
        tiny.model, "generate", lambda **_: torch.cat([question.ids, image], dim=1)
    )
    with pytest.raises(RunError, match="image token"):
        tiny.generate(question, limit=1, temperature=0, seed=1)
