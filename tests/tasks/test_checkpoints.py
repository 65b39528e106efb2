"""The committed checkpoints: complete, small, and as good as recorded.

The band of a checkpoint's accuracy is wider than its sampling error, as kernels of
other machines may decide a close token otherwise.
"""

import pytest
import torch

from areal_cppo.config import TASK_NAMES
from areal_cppo.tasks.model import load_model, response_logits, tiny_config
from areal_cppo.tasks.problems import reading_task
from areal_cppo.tasks.sampling import evaluate, problem_pixels, sample

N_PARAMETERS = 948_000
N_OF_A_TOKEN = 256  # its two embeddings
MAX_BYTES = 4_000_000
MAX_BANNED_CHANCE = 1e-6  # of a token that breaks a request, on average
# Greedy accuracy on 300 held-out problems, with a right answer as the sum of what was
# read in most.
ACCURACY_BAND = {
    "triangles": (0.36, 0.56),
    "charts": (0.36, 0.56),
    "prior": (0.40, 0.60),
    "legends": (0.56, 0.76),
}


@pytest.fixture(scope="module", params=TASK_NAMES)
def task(request):
    return reading_task(request.param)


@pytest.fixture(scope="module")
def model(task):
    return load_model(task.checkpoint)


@pytest.fixture(scope="module")
def problems(task):
    return [task.make_problem(0, i, "held_out") for i in range(300)]


def test_checkpoint_is_complete_and_small(task):
    sizes = {path.name: path.stat().st_size for path in task.checkpoint.iterdir()}
    assert sum(sizes.values()) <= MAX_BYTES
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= set(sizes)


def test_checkpoint_is_the_tiny_model_in_float32(task, model):
    more = len(task.vocabulary) - 29
    expected = N_PARAMETERS + more * N_OF_A_TOKEN
    assert sum(p.numel() for p in model.parameters()) == expected
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.config.tie_word_embeddings
    ours, saved = tiny_config(task.vocabulary), model.config
    assert saved.text_config.vocab_size == ours.text_config.vocab_size
    assert saved.text_config.rope_parameters == ours.text_config.rope_parameters
    assert saved.vision_config.to_dict() == ours.vision_config.to_dict() | {
        "dtype": saved.vision_config.to_dict().get("dtype")
    }


def test_checkpoints_are_different_models_with_one_tokenizer():
    """But for the words, which have another configuration, too."""
    tasks = [reading_task(name) for name in TASK_NAMES]
    folders = [task.checkpoint for task in tasks]
    plain = [task.checkpoint for task in tasks if not task.coloured]
    for name in ("tokenizer.json", "config.json"):
        assert len({(folder / name).read_bytes() for folder in plain}) == 1
    processors = {(folder / "processor_config.json").read_bytes() for folder in folders}
    assert len(processors) == 1
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert len(set(weights)) == len(weights)


def test_checkpoint_reads_a_good_part(task, model, problems):
    """Errors are those of perception: format and sums are nearly always right."""
    result = evaluate(model, problems)
    low, high = ACCURACY_BAND[task.name]
    assert low < result["accuracy"] < high
    assert result["format"] > 0.97
    assert result["values_read"] > 0.6
    assert result["consistent"] > 0.85
    assert result["n"] == len(result["correct"]) == 300
    assert result["correct"].count("1") == round(300 * result["accuracy"])


def test_checkpoint_keeps_off_vision_tokens(model, problems):
    """One of those in a response breaks the server's next request.

    A training run of 75 steps samples about 170,000 tokens.
    """
    pixels = problem_pixels(problems[:100])
    prompts = [problem.prompt for problem in problems[:100]]
    generator = torch.Generator().manual_seed(0)
    ids = sample(model, pixels, prompts=prompts, generator=generator).ids
    with torch.no_grad():
        chances = response_logits(model, pixels, ids, prompts).softmax(-1)
    assert chances[ids != 0][:, [0, 2, 3, 4, 5]].sum(-1).mean() < MAX_BANNED_CHANCE
